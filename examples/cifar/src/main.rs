//! The program `cifar`: SWA on CIFAR-10 and CIFAR-100 from the command line.

mod average;
mod bench;
mod check;
mod evaluate;
mod experiment;
mod landscape;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use swa_lab::measure::bench::BenchArgs;
use swa_lab::measure::device_check::CheckArgs;
use swa_lab::output::exit_code;
use swa_lab::run::ensemble::{EnsembleArgs, ensemble};
use swa_lab::run::export::{ExportArgs, export};
use swa_lab::run::recipe::Paper;
use swa_lab::run::train::{TrainArgs, train};
use swa_lab::{Failure, report};

/// Stochastic Weight Averaging on CIFAR-10 and CIFAR-100
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trains a network with SWA, with plain SGD, or with a method that is compared with SWA.
    ///
    /// Without settings it is the paper's training of a PreResNet-20 on images that are made up: say
    /// --data to train on real ones.
    Train(Box<TrainArgs<Paper>>),
    Evaluate(evaluate::EvaluateArgs),
    Ensemble(EnsembleArgs),
    Landscape(landscape::LandscapeCommand),
    Average(average::AverageArgs),
    /// Writes a model as a SafeTensors file that PyTorch loads.
    ///
    /// model.load_state_dict(safetensors.torch.load_file("OUT.safetensors"), strict=True)
    Export(ExportArgs),
    /// Reports the results of an experiment: a page, its pictures, and the table.
    Report {
        /// The folder of an experiment, with its results.jsonl; the report is written to it
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    Experiment(Box<experiment::ExperimentArgs>),
    Check(CheckArgs),
    Bench(BenchArgs),
}

fn main() -> ExitCode {
    exit_code(run(&Arguments::parse().command))
}

fn run(command: &Command) -> Result<i32, Failure> {
    match command {
        Command::Train(args) => train(args),
        Command::Evaluate(args) => evaluate::run(args).map(|()| 0),
        Command::Ensemble(args) => ensemble(args, None).map(|()| 0),
        Command::Landscape(args) => landscape::run(args),
        Command::Average(args) => average::run(args),
        Command::Export(args) => export(args).map(|()| 0),
        Command::Report { folder } => report::write(folder).map(|()| 0),
        Command::Experiment(args) => experiment::run(args),
        Command::Check(args) => check::run(args).map(|()| 0),
        Command::Bench(args) => bench::run(args).map(|()| 0),
    }
}
