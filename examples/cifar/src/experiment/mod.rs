//! The paper's experiment: runs of a plan, their results, and a report.

pub mod record;
