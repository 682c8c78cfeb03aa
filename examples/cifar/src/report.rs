//! `cifar report`.

use std::path::PathBuf;

use swa_lab::{Failure, report};

/// Reports the results of an experiment: a page, its pictures, and the table.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ReportArgs {
    /// The folder of an experiment, with its results.jsonl; the report is written to it
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Runs `cifar report`.
///
/// # Errors
///
/// If there are no results, one of them cannot be read, or the report cannot be written.
pub(crate) fn run(args: &ReportArgs) -> Result<(), Failure> {
    report::write(&args.folder)
}
