//! The command that exports a model for PyTorch.

use std::path::PathBuf;

use swa_store::StateDict;

use crate::Failure;
use crate::device;
use crate::output::say;
use crate::run::model_file::{FileArgs, ModelFile};

/// The arguments of the command.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportArgs {
    /// The model: a file of a run, or of PyTorch (.safetensors, or .pt and .pth of torch.save)
    model_file: PathBuf,

    /// The file to write
    #[arg(value_name = "OUT.safetensors")]
    out: PathBuf,

    #[command(flatten)]
    file: FileArgs,

    /// The number of classes that the network of a file from elsewhere tells apart [default: 10 of CIFAR-10, or 1000 of
    /// ImageNet]
    #[arg(long, value_name = "N")]
    classes: Option<usize>,

    /// Write it as torch.optim.swa_utils.AveragedModel has it: `module.` before every name, and
    /// n_averaged
    #[arg(long)]
    averaged_model: bool,
}

/// Writes a model as a SafeTensors file that PyTorch loads.
///
/// # Errors
///
/// If the model cannot be loaded, or the file not be written.
pub fn export(args: &ExportArgs) -> Result<(), Failure> {
    let file = ModelFile::read(&args.model_file, &args.file)?;
    let classes = match &file.class_names {
        Some(class_names) => class_names.len(),
        None => args.classes.unwrap_or_else(|| file.usual_classes()),
    };
    let averaged = if args.averaged_model {
        let averaged = file.averaged.ok_or_else(|| {
            format!(
                "{} does not say how many weights it is the average of: export an averaged model with \
                 --averaged-model, such as a run's averaged.safetensors",
                args.model_file.display()
            )
        })?;
        Some(averaged)
    } else {
        None
    };
    // Nothing is computed, so the processor is enough.
    let device = device::parse("flex")?;
    let network = file.network(classes, &device)?;
    let state_dict = file.describe(StateDict::of(&network));
    let state_dict = match averaged {
        None => state_dict,
        Some(updates) => state_dict.averaged(updates),
    };
    state_dict.write(&args.out)?;
    let names = match averaged {
        None => String::new(),
        Some(averaged) => format!(", as an AveragedModel of {averaged} updates"),
    };
    say(format!("{} in {}{names}", file.name(), args.out.display()));
    Ok(())
}
