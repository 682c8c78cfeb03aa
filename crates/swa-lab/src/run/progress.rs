//! Progress where there is no room for Burn's terminal UI.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::MetricDefinition;
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::{note, say};

/// The time between two lines where there is no terminal for a bar.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Progress on standard error: a bar on a terminal, and a line now and then elsewhere.
#[derive(Clone)]
pub struct Progress {
    bar: Option<ProgressBar>,
    unit: Unit,
    label: String,
    began: Instant,
    last_line: Instant,
    total: usize,
    done: usize,
}

/// The unit that progress is counted in.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Images,
    Classes,
    Points,
    Megabytes,
}

impl Progress {
    /// Progress of something counted in images.
    pub fn of_images() -> Self {
        Self::of(Unit::Images)
    }

    /// Progress of something counted in classes of images.
    pub(super) fn of_classes() -> Self {
        Self::of(Unit::Classes)
    }

    /// Progress of something counted in points, each of which takes a while.
    pub(crate) fn of_points() -> Self {
        Self::of(Unit::Points)
    }

    /// Progress of something counted in megabytes.
    pub fn of_megabytes() -> Self {
        Self::of(Unit::Megabytes)
    }

    fn of(unit: Unit) -> Self {
        let style = match unit {
            Unit::Images => "{msg:24} [{bar:30}] {pos}/{len} images {per_sec} eta {eta}",
            Unit::Classes => "{msg:24} [{bar:30}] {pos}/{len} classes",
            Unit::Points => "{msg:24} [{bar:30}] {pos}/{len} points eta {eta}",
            Unit::Megabytes => "{msg:24} [{bar:30}] {pos}/{len} MB {per_sec} eta {eta}",
        };
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(style);
            ProgressBar::no_length()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self {
            bar,
            unit,
            label: String::new(),
            began: Instant::now(),
            last_line: Instant::now(),
            total: 0,
            done: 0,
        }
    }

    /// Begins `total` images of something called `label`.
    pub fn begin(&mut self, label: &str, total: usize) {
        label.clone_into(&mut self.label);
        self.total = total;
        self.done = 0;
        self.began = Instant::now();
        self.last_line = self.began;
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(total as u64);
            bar.set_message(self.label.clone());
        }
    }

    /// Sets the number of all images, which may not be known from the beginning.
    pub fn set_total(&mut self, total: usize) {
        self.total = total;
        if let Some(bar) = &self.bar {
            bar.set_length(total as u64);
        }
    }

    /// Sets the number of images that are done.
    pub fn set(&mut self, done: usize) {
        self.done = done;
        match &self.bar {
            // The bar is shared with other clones, which may have shown something else since.
            Some(bar) => {
                bar.set_message(self.label.clone());
                bar.set_length(self.total as u64);
                bar.set_position(done as u64);
            }
            None if self.last_line.elapsed() > LINE_EVERY => {
                self.last_line = Instant::now();
                let (label, total) = (&self.label, self.total);
                let seconds = self.began.elapsed().as_secs_f64();
                note(match self.unit {
                    Unit::Images => {
                        let rate = done as f64 / seconds;
                        format!("{label}: {done} of {total} images, {rate:.0} images/s")
                    }
                    Unit::Classes => format!("{label}: {done} of {total} classes"),
                    Unit::Megabytes => format!("{label}: {done} of {total} MB"),
                    Unit::Points => {
                        let left = total.saturating_sub(done) as f64 * seconds / done.max(1) as f64;
                        let minutes = (left / 60.0).ceil();
                        format!("{label}: {done} of {total} points, about {minutes} min left")
                    }
                });
            }
            None => {}
        }
    }

    /// Adds images that are done.
    pub fn advance(&mut self, images: usize) {
        self.set(self.done + images);
    }

    /// Takes the bar away.
    pub fn end(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Prints a line above the bar, where it stays.
    pub fn print(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }
}

/// A renderer for Burn's `Learner` that shows progress within an epoch, and leaves the results of
/// an epoch to the [`EpochLog`](crate::run::epoch_log::EpochLog).
pub struct PlainRenderer {
    progress: Progress,
    epoch: usize,
    epochs: usize,
}

impl PlainRenderer {
    /// A renderer that shows its progress in `progress`.
    pub fn new(progress: Progress) -> Self {
        Self {
            progress,
            epoch: 0,
            epochs: 0,
        }
    }
}

impl TrainingProgressLogger for PlainRenderer {
    fn start(&mut self, epochs: usize, first: usize, _items: Option<usize>, _label: Option<&str>) {
        self.epoch = first;
        self.epochs = epochs;
    }

    fn start_split(&mut self, split: &str, total_items: usize) {
        let split = match split {
            "valid" => "testing",
            _ => "training",
        };
        let label = format!("epoch {}/{} {split}", self.epoch, self.epochs);
        self.progress.begin(&label, total_items);
    }

    fn update_split(&mut self, items_processed: usize) {
        self.progress.set(items_processed);
    }

    fn update_epoch(&mut self, epoch: usize) {
        self.epoch = epoch + 1;
    }

    fn end_split(&mut self) {}

    fn end(&mut self) {
        self.progress.end();
    }

    fn log_event_training(&mut self, _event: String) {}
}

impl EvaluationProgressLogger for PlainRenderer {
    fn start_global_progress(&mut self, _total_tests: usize) {}
    fn start_test(&mut self, _name: &str, _total_items: usize) {}
    fn update_test_progress(&mut self, _items_processed: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _event: String) {}
}

impl MetricsRendererTraining for PlainRenderer {
    fn update_train(&mut self, _state: MetricState) {}
    fn update_valid(&mut self, _state: MetricState) {}
}

impl MetricsRendererEvaluation for PlainRenderer {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}
}

impl MetricsRenderer for PlainRenderer {
    fn manual_close(&mut self) {}
    fn register_metric(&mut self, _definition: MetricDefinition) {}
}
