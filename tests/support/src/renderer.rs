//! A renderer for the metrics of Burn's `Learner`, for tests.

use std::sync::{Arc, Mutex};

use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::MetricDefinition;
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};

/// Prints nothing, and keeps the metrics that it is shown. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    training: Shown,
    validation: Shown,
}

/// Names and values of metrics, batch by batch.
type Shown = Arc<Mutex<Vec<(String, f64)>>>;

impl Recorder {
    /// The values of metric `name` after each batch of the training.
    pub fn training(&self, name: &str) -> Vec<f64> {
        of_metric(&self.training, name)
    }

    /// The values of metric `name` after each batch of the validations.
    pub fn validation(&self, name: &str) -> Vec<f64> {
        of_metric(&self.validation, name)
    }
}

fn of_metric(shown: &Shown, name: &str) -> Vec<f64> {
    let shown = shown.lock().unwrap();
    let of_metric = shown.iter().filter(|(metric, _)| metric == name);
    of_metric.map(|(_, value)| *value).collect()
}

fn keep(shown: &Shown, state: MetricState) {
    if let MetricState::Numeric(entry, Some(value)) = state {
        // Burn (0.22.1) gives the name in no other way.
        let id = format!("{:?}", entry.metric_id);
        let name = id.split('"').nth(1).unwrap_or_default().to_owned();
        shown.lock().unwrap().push((name, value.current()));
    }
}

impl MetricsRendererTraining for Recorder {
    fn update_train(&mut self, state: MetricState) {
        keep(&self.training, state);
    }
    fn update_valid(&mut self, state: MetricState) {
        keep(&self.validation, state);
    }
}

impl MetricsRendererEvaluation for Recorder {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl MetricsRenderer for Recorder {
    fn manual_close(&mut self) {}
    fn register_metric(&mut self, _: MetricDefinition) {}
}

impl TrainingProgressLogger for Recorder {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}
    fn start_split(&mut self, _: &str, _: usize) {}
    fn update_split(&mut self, _: usize) {}
    fn update_epoch(&mut self, _: usize) {}
    fn end_split(&mut self) {}
    fn end(&mut self) {}
    fn log_event_training(&mut self, _: String) {}
}

impl EvaluationProgressLogger for Recorder {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}
