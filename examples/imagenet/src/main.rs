//! The program `imagenet`: SWA on images of any size, from trained weights, from the command line.

mod evaluate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use swa_lab::Failure;
use swa_lab::data::View;
use swa_lab::output::exit_code;
use swa_lab::run::ensemble::{EnsembleArgs, ensemble};
use swa_lab::run::export::{ExportArgs, export};
use swa_lab::run::recipe::FineTuning;
use swa_lab::run::train::{TrainArgs, train};

/// Stochastic Weight Averaging on images of any size, from trained weights
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trains a network on from trained weights with SWA, or with a method that is compared with SWA.
    ///
    /// Without settings it is the SWA paper's training on ImageNet: ten epochs under a learning rate in cycles of an epoch, averaged
    /// at the end of each. --weights says where the trained weights are; without it, they are drawn from the seed.
    Finetune(Box<TrainArgs<FineTuning>>),
    Evaluate(evaluate::EvaluateArgs),
    Ensemble(EnsembleArgs),
    /// Writes a model as a SafeTensors file that torchvision's network loads.
    ///
    /// model.load_state_dict(safetensors.torch.load_file("OUT.safetensors"), strict=True)
    Export(ExportArgs),
}

fn main() -> ExitCode {
    exit_code(run(&Arguments::parse().command))
}

fn run(command: &Command) -> Result<i32, Failure> {
    match command {
        Command::Finetune(args) => train(args),
        Command::Evaluate(args) => evaluate::run(args).map(|()| 0),
        Command::Ensemble(args) => ensemble(args, Some(View::TORCHVISION)).map(|()| 0),
        Command::Export(args) => export(args).map(|()| 0),
    }
}
