#![doc = include_str!("../README.md")]

mod burn_0_22;
mod state_dict;

pub use state_dict::{NotLoaded, StateDict, StateDictError};
