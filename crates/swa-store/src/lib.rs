#![doc = include_str!("../README.md")]

mod batch_norm;
mod burn_0_22;
mod checkpoints;
mod member_files;
mod safetensors_file;
mod state_dict;

pub use checkpoints::{
    CheckpointAverage, CheckpointError, Checkpoints, Decay, GreedySoup, Misfit, Tried,
};
pub use member_files::MemberFiles;
pub use state_dict::{NotLoaded, StateDict, StateDictError};
