//! `cifar export`: a model for PyTorch.

use std::path::PathBuf;

use swa_store::StateDict;

use swa_lab::Failure;
use swa_lab::device;
use swa_lab::output::say;
use swa_lab::run::model_file::{FileArgs, ModelFile};

/// Writes a model as a SafeTensors file that PyTorch loads.
///
/// model.load_state_dict(safetensors.torch.load_file("OUT.safetensors"), strict=True)
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ExportArgs {
    /// The model: a file of `cifar train`, or of PyTorch (.safetensors, or .pt and .pth of torch.save)
    model_file: PathBuf,

    /// The file to write
    #[arg(value_name = "OUT.safetensors")]
    out: PathBuf,

    #[command(flatten)]
    file: FileArgs,

    /// The number of classes that the network of a file from elsewhere tells apart
    #[arg(long, value_name = "N", default_value_t = 10)]
    classes: usize,

    /// Write it as torch.optim.swa_utils.AveragedModel has it: `module.` before every name, and
    /// n_averaged
    #[arg(long)]
    averaged_model: bool,
}

/// Runs `cifar export`.
///
/// # Errors
///
/// If the model cannot be loaded, or the file not be written.
pub(crate) fn run(args: &ExportArgs) -> Result<(), Failure> {
    let file = ModelFile::read(&args.model_file, &args.file)?;
    let classes = file.class_names.as_ref().map_or(args.classes, Vec::len);
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
