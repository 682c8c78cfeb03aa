//! A line an epoch where there is no terminal for Burn's dashboard.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{MetricDefinition, MetricEntry, NumericEntry};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};

/// A renderer that prints lines, if there is no terminal.
pub(crate) fn unless_on_a_terminal() -> Option<Box<dyn MetricsRenderer>> {
    (!std::io::stdout().is_terminal()).then(|| Box::new(Lines::default()) as _)
}

#[derive(Default)]
struct Lines {
    names: Vec<MetricDefinition>,
    values: BTreeMap<String, f64>,
}

impl Lines {
    fn keep(&mut self, split: &str, state: MetricState) {
        if let MetricState::Numeric(MetricEntry { metric_id, .. }, Some(NumericEntry::Final(value))) =
            state
            && let Some(metric) = self.names.iter().find(|it| it.metric_id == metric_id)
        {
            self.values
                .insert(format!("{split} {}", metric.name), value);
        }
    }
}

impl MetricsRendererTraining for Lines {
    fn update_train(&mut self, state: MetricState) {
        self.keep("train", state);
    }
    fn update_valid(&mut self, state: MetricState) {
        self.keep("valid", state);
    }
}

impl TrainingProgressLogger for Lines {
    fn update_epoch(&mut self, epoch: usize) {
        let values = std::mem::take(&mut self.values);
        let values = values
            .iter()
            .map(|(name, value)| format!("{name} {value:.3}"));
        println!("epoch {epoch:2}: {}", values.collect::<Vec<_>>().join(", "));
    }
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}
    fn start_split(&mut self, _: &str, _: usize) {}
    fn update_split(&mut self, _: usize) {}
    fn end_split(&mut self) {}
    fn end(&mut self) {}
    fn log_event_training(&mut self, _: String) {}
}

impl EvaluationProgressLogger for Lines {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}

impl MetricsRendererEvaluation for Lines {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl MetricsRenderer for Lines {
    fn manual_close(&mut self) {}
    fn register_metric(&mut self, definition: MetricDefinition) {
        self.names.push(definition);
    }
}
