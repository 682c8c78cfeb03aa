//! Learning-rate schedules for SWA, as schedulers of Burn's `Learner`.

mod cyclical;
mod joined;
mod paper;
mod swalr;

pub use cyclical::{CycleShape, CyclicalLrScheduler, CyclicalLrSchedulerConfig};
pub(crate) use joined::without_later_schedules;
pub use paper::{PaperLrScheduler, PaperLrSchedulerConfig};
pub use swalr::{Annealing, SwaLrScheduler, SwaLrSchedulerConfig};
