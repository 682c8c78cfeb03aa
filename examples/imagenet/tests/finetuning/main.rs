//! The program `imagenet`, as a user runs it: in its own process, judged by its files and its output.

mod files;
mod program;
mod refused;
mod stopping;
mod weights;
