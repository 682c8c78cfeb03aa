//! Metrics of several models, each under its own name.

use std::sync::Arc;

use burn::tensor::{ExecutionError, TensorReadError};
use burn::train::ItemLazy;
use burn::train::metric::{
    AccuracyInput, Adaptor, BleuInput, CerInput, ConfusionStatsInput, HammingScoreInput, LossInput,
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericEntry, PerplexityInput,
    RougeLInput, SerializedEntry, TopKAccuracyInput, WerInput,
};

use crate::swa::MAIN;

/// The outputs of several models for one validation batch: the output of a [`SwaMetrics`](crate::SwaMetrics).
///
/// Burn's metrics of classification and text take the output of the averaged model, or of the live one while nothing has been
/// averaged. A [`ModelMetric`] takes the output of the model that it names. For a metric with another type of input, name the
/// averaged model too: `ModelMetric::new("averaged", metric)`.
#[derive(Debug)]
pub struct ModelOutputs<O> {
    /// The output of each model. The first is of the model that is validated.
    outputs: Vec<O>,
    /// The place of each name's output.
    names: Vec<(Arc<str>, usize)>,
}

impl<O> ModelOutputs<O> {
    /// There is at least one of the `outputs`. The first is of the model that is validated.
    pub(crate) fn new(outputs: Vec<O>, names: Vec<(Arc<str>, usize)>) -> Self {
        Self { outputs, names }
    }

    /// The output of the model that is validated: of the averaged one, or of the live one while nothing
    /// has been averaged.
    pub fn evaluated(&self) -> &O {
        &self.outputs[0]
    }

    /// The output of the model called `name`: `averaged`, or one of those that metrics were asked for.
    pub fn named(&self, name: &str) -> Option<&O> {
        let named = self.names.iter().find(|(known, _)| **known == *name);
        let place = named.map(|(_, place)| *place);
        let place = place.or_else(|| (name == MAIN).then_some(0));
        place.map(|place| &self.outputs[place])
    }
}

impl<O: ItemLazy> ItemLazy for ModelOutputs<O> {
    fn sync(self) -> Result<Self, ExecutionError> {
        let outputs = self.outputs.into_iter().map(ItemLazy::sync);
        Ok(Self {
            outputs: outputs.collect::<Result<_, _>>()?,
            names: self.names,
        })
    }
}

/// The input of a [`ModelMetric`]: the input of its metric, from each model.
#[derive(Debug)]
pub struct ModelInput<T>(ModelOutputs<T>);

impl<T, O: Adaptor<T>> Adaptor<ModelInput<T>> for ModelOutputs<O> {
    fn adapt(&self) -> ModelInput<T> {
        let inputs = self.outputs.iter().map(Adaptor::adapt);
        ModelInput(ModelOutputs::new(inputs.collect(), self.names.clone()))
    }
}

/// One implementation per type, since a blanket implementation would overlap with that for [`ModelInput`].
macro_rules! adapt_evaluated {
    ($($input:ty),* $(,)?) => {$(
        impl<O: Adaptor<$input>> Adaptor<$input> for ModelOutputs<O> {
            fn adapt(&self) -> $input {
                self.evaluated().adapt()
            }
        }
    )*};
}

adapt_evaluated!(
    AccuracyInput,
    BleuInput,
    CerInput,
    ConfusionStatsInput,
    HammingScoreInput,
    LossInput,
    PerplexityInput,
    RougeLInput,
    TopKAccuracyInput,
    WerInput,
);

/// The metric `Me` of one model: `live`, `averaged`, or the name of a further average. The model's name follows the metric's
/// name, in parentheses.
///
/// ```
/// use burn::train::metric::{AccuracyMetric, Metric};
/// use swa_train::ModelMetric;
///
/// let metric = ModelMetric::new("live", AccuracyMetric::new());
/// assert_eq!(*metric.name(), "Accuracy (live)");
/// ```
#[derive(Debug, Clone)]
pub struct ModelMetric<Me> {
    model: Arc<str>,
    metric: Me,
    name: MetricName,
}

impl<Me: Metric> ModelMetric<Me> {
    /// `metric` of the model called `model`. Give this name to [`Swa::with_metrics_of`](crate::Swa::with_metrics_of) too:
    /// otherwise the first validation fails, and says so.
    pub fn new(model: &str, metric: Me) -> Self {
        Self {
            model: model.into(),
            name: Arc::new(format!("{} ({model})", metric.name())),
            metric,
        }
    }
}

impl<Me: Metric> Metric for ModelMetric<Me> {
    type Input = ModelInput<Me::Input>;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn description(&self) -> Option<String> {
        self.metric.description()
    }

    fn attributes(&self) -> MetricAttributes {
        self.metric.attributes()
    }

    fn update(
        &mut self,
        item: &Self::Input,
        metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        match item.0.named(&self.model) {
            Some(input) => self.metric.update(input, metadata),
            None => Err(not_validated(&self.model).into()),
        }
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        self.metric.compute()
    }

    fn clear(&mut self) {
        self.metric.clear();
    }
}

impl<Me: Numeric> Numeric for ModelMetric<Me> {
    fn value(&self) -> Option<NumericEntry> {
        self.metric.value()
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.metric.running_value()
    }

    fn final_value(&self) -> NumericEntry {
        self.metric.final_value()
    }
}

/// The error of a metric of a model that is not validated. Burn has no variant for it.
fn not_validated(model: &str) -> ExecutionError {
    ExecutionError::WithContext {
        reason: format!(
            "there are no outputs of a model called `{model}`: name it in `Swa::with_metrics_of`, too"
        ),
    }
}
