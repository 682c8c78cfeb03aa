//! The program `cifar`, as a user runs it: in its own process, judged by its files and its output.

mod average;
#[cfg(target_os = "linux")]
mod average_memory;
mod benchmark;
mod checking;
mod data_folder;
mod earlier_version;
mod end_state;
mod ensemble;
mod experiment;
mod experiment_methods;
mod going_on;
mod killing;
mod landscape;
mod methods;
#[cfg(target_os = "linux")]
mod no_room;
#[cfg(target_os = "linux")]
mod on_a_terminal;
#[cfg(feature = "wgpu")]
mod on_wgpu;
mod output;
mod post_hoc;
mod process;
mod pytorch_files;
mod refused_data;
mod refused_files;
mod refused_settings;
mod report;
mod resuming;
mod small_run;
mod snapshot;
mod stopping;
mod training;
