//! `cifar experiment`.

use std::path::PathBuf;

use swa_lab::Failure;
use swa_lab::device::{self, DEFAULT_DEVICE};
use swa_lab::experiment::supervisor::Supervisor;
use swa_lab::experiment::worker::{self, WorkerArgs};
use swa_lab::experiment::{ExperimentDirectory, Plan, status};
use swa_lab::output::say;
use swa_lab::provenance::command_line;
use swa_lab::run::time_limit::TimeLimit;

/// Makes the paper's experiment, or one of a plan of your own: SGD, SWA and the methods beside it, on several
/// networks and data sets, over several seeds.
///
/// It can be stopped at any moment: the same command goes on with it.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct ExperimentArgs {
    #[command(subcommand)]
    command: Option<ExperimentCommand>,

    #[command(flatten)]
    begin: Option<BeginArgs>,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum ExperimentCommand {
    /// Shows which runs of an experiment are done, running and left, and how long it will take
    Status {
        /// The folder of the experiment
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },

    /// Makes a run, in the process that an experiment starts for it.
    #[command(hide = true)]
    Run(WorkerArgs),
}

#[derive(Debug, Clone, clap::Args)]
struct BeginArgs {
    /// The plan: `paper` (a GPU's work of weeks), `small` (SGD and SWA, two hours and a half of two CPU cores),
    /// `small-methods` (all methods, an hour of them), `gpu` (SGD and SWA, an hour and a half of an H100 by an
    /// estimate), or a TOML file
    #[arg(value_name = "PLAN")]
    plan: String,

    /// The images: `download`, a folder as in `cifar train` (with several data sets, one with a folder
    /// for each: cifar10, cifar100), or `synthetic` [default: where they were when it began]
    #[arg(long, value_name = "WHERE")]
    data: Option<String>,

    /// The folder for the plan, the runs and the results
    #[arg(long, value_name = "DIR", required_unless_present = "print")]
    out: Option<PathBuf>,

    /// flex (the CPU), wgpu, vulkan, metal, cuda or rocm; an index picks one of several, as in cuda:1
    /// [default: flex]
    #[arg(long, value_name = "D")]
    device: Option<String>,

    /// The seeds, instead of the plan's
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    seeds: Vec<u64>,

    /// Set a key of the plan, or of all its models, or as MODEL.KEY of one: --set lr=0.05
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// End by itself within so many minutes, after the last epoch that fits: the same command goes on
    #[arg(long, value_name = "N", value_parser = TimeLimit::parse)]
    until_minutes: Option<TimeLimit>,

    /// Print the plan, to be changed and given as a file, and run nothing
    #[arg(long)]
    print: bool,
}

/// Runs `cifar experiment`, and returns the program's exit status.
///
/// # Errors
///
/// With one line that says what is wrong and what to do.
pub(crate) fn run(args: &ExperimentArgs) -> Result<i32, Failure> {
    match (&args.command, &args.begin) {
        (Some(ExperimentCommand::Status { dir }), _) => status::show(dir).map(|()| 0),
        (Some(ExperimentCommand::Run(worker)), _) => worker::run(worker),
        (None, Some(begin)) => begin.run(),
        (None, None) => Err("name a plan: paper, small, small-methods, gpu, or a TOML file".into()),
    }
}

impl BeginArgs {
    fn run(&self) -> Result<i32, Failure> {
        let text = Plan::text(&self.plan)?;
        let mut settings = self.set.clone();
        if !self.seeds.is_empty() {
            settings.push(format!("seeds={:?}", self.seeds));
        }
        let plan = Plan::parse(&text, &self.plan, &settings)?;
        let Some(out) = self.out.as_ref().filter(|_| !self.print) else {
            // With its comments, unless something is set.
            let shown = if settings.is_empty() {
                text
            } else {
                plan.to_toml()?
            };
            say(shown.trim_end());
            return Ok(0);
        };
        let device_name = self.device.as_deref().unwrap_or(DEFAULT_DEVICE);
        let device = device::parse(device_name)?;
        let (directory, plan) = ExperimentDirectory::with_plan(out, plan, self.data.as_deref())?;
        let runs = plan.runs()?;
        // Networks are made on the processor to be checked, so that this process needs nothing of an accelerator: one that ends while
        // its kernels are being compiled can crash (Mesa 22.3).
        let host = device::parse(DEFAULT_DEVICE).unwrap_or(device);
        for run in &runs {
            run.check(&host)?;
        }
        directory.begin(&plan)?;
        let supervisor = Supervisor {
            directory: &directory,
            runs: &runs,
            device: device_name,
            keep_models: plan.keep_models,
            limit: self.until_minutes,
            command: command_line(std::env::args().skip(1)),
        };
        supervisor.run()
    }
}
