#![doc = include_str!("../README.md")]

mod burn_0_22;
mod member_files;
mod state_dict;

pub use member_files::MemberFiles;
pub use state_dict::{NotLoaded, StateDict, StateDictError};
