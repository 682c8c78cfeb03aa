//! Renderers that print nothing.

use std::sync::{Arc, Mutex};

use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::MetricDefinition;
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};

/// Shows nothing at all.
pub(crate) struct Silent;

/// Keeps the validation metrics: their names, and their values so far in the epoch.
pub(crate) struct Recorder(pub(crate) Arc<Mutex<Vec<(String, f64)>>>);

impl MetricsRendererTraining for Silent {
    fn update_train(&mut self, _state: MetricState) {}
    fn update_valid(&mut self, _state: MetricState) {}
}

impl MetricsRendererTraining for Recorder {
    fn update_train(&mut self, _state: MetricState) {}
    fn update_valid(&mut self, state: MetricState) {
        if let MetricState::Numeric(entry, Some(value)) = state {
            let name = format!("{:?}", entry.metric_id);
            let name = name.split('"').nth(1).unwrap_or_default().to_owned();
            self.0.lock().unwrap().push((name, value.current()));
        }
    }
}

macro_rules! print_nothing {
    ($($renderer:ty),*) => {$(
        impl TrainingProgressLogger for $renderer {
            fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}
            fn start_split(&mut self, _: &str, _: usize) {}
            fn update_split(&mut self, _: usize) {}
            fn update_epoch(&mut self, _: usize) {}
            fn end_split(&mut self) {}
            fn end(&mut self) {}
            fn log_event_training(&mut self, _: String) {}
        }
        impl EvaluationProgressLogger for $renderer {
            fn start_global_progress(&mut self, _: usize) {}
            fn start_test(&mut self, _: &str, _: usize) {}
            fn update_test_progress(&mut self, _: usize) {}
            fn end_test(&mut self) {}
            fn end_global_progress(&mut self) {}
            fn log_event_evaluation(&mut self, _: String) {}
        }
        impl MetricsRendererEvaluation for $renderer {
            fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
        }
        impl MetricsRenderer for $renderer {
            fn manual_close(&mut self) {}
            fn register_metric(&mut self, _: MetricDefinition) {}
        }
    )*};
}

print_nothing!(Silent, Recorder);
