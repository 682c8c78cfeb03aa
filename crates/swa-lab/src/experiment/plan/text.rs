//! A plan as a TOML file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{FurtherSettings, Plan, PlanError};
use crate::experiment::data_set::DataSet;
use crate::run::config::{ImageSettings, SgdSettings};

/// The plans that are part of the program: their names and their texts.
pub(super) const BUILT_IN: [(&str, &str); 4] = [
    ("paper", include_str!("paper.toml")),
    ("small", include_str!("small.toml")),
    ("small-methods", include_str!("small-methods.toml")),
    ("gpu", include_str!("gpu.toml")),
];

impl Plan {
    /// The text of a plan, of this program's own or of a file.
    ///
    /// # Errors
    ///
    /// [`PlanError::NoSuchPlan`] or [`Read`](PlanError::Read).
    pub fn text(name: &str) -> Result<String, PlanError> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            return Ok((*text).to_owned());
        }
        let name = name.to_owned();
        if Path::new(&name).exists() {
            fs::read_to_string(&name).map_err(|error| PlanError::Read { name, error })
        } else {
            Err(PlanError::NoSuchPlan { name })
        }
    }

    /// Reads a plan. Each of `settings` is a `KEY=VALUE` that is set in it.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if it is not a plan.
    pub fn parse(text: &str, name: &str, settings: &[String]) -> Result<Self, PlanError> {
        let syntax = |error: toml::de::Error| PlanError::Syntax {
            name: name.to_owned(),
            line: line_of(&error, text),
            reason: in_a_line(&error),
        };
        let plan: Self =
            toml::from_str(text).map_err(|error| syntax(better_placed(error, text)))?;
        if settings.is_empty() {
            return Ok(plan);
        }
        let mut table: toml::Table = toml::from_str(text).map_err(syntax)?;
        for setting in settings {
            set(&mut table, setting)?;
        }
        table.try_into().map_err(|error: toml::de::Error| {
            let name = format!("{name} with --set {}", settings.join(" --set "));
            PlanError::Syntax {
                name,
                line: None,
                reason: in_a_line(&error),
            }
        })
    }

    /// The plan as TOML, complete.
    ///
    /// # Errors
    ///
    /// [`PlanError::Syntax`] for a number that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String, PlanError> {
        toml::to_string(self).map_err(|error| PlanError::Syntax {
            name: "the plan".to_owned(),
            line: None,
            reason: error.to_string(),
        })
    }

    /// The differences from another plan: each key, and its values here and there.
    pub fn differences(&self, there: &Self) -> Result<Vec<String>, PlanError> {
        let (here, there) = (self.values()?, there.values()?);
        let keys: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
        let value = |values: &BTreeMap<String, String>, key: &String| {
            let value = values.get(key).cloned();
            value.unwrap_or_else(|| "not given".to_owned())
        };
        let pairs = keys
            .into_iter()
            .map(|key| (key, value(&here, key), value(&there, key)));
        Ok(pairs
            .filter(|(_, here, there)| here != there)
            .map(|(key, here, there)| format!("{key} is {here} here and {there} there"))
            .collect())
    }

    /// All values, by their keys and the models that they belong to.
    fn values(&self) -> Result<BTreeMap<String, String>, PlanError> {
        let text = self.to_toml()?;
        let table: toml::Table = toml::from_str(&text).map_err(|error| PlanError::Syntax {
            name: "the plan".to_owned(),
            line: None,
            reason: error.message().to_owned(),
        })?;
        let mut values = BTreeMap::new();
        for (key, value) in table {
            let models = match value {
                toml::Value::Array(models) if key == "models" => models,
                value => {
                    values.insert(key, value.to_string());
                    continue;
                }
            };
            for (model, fields) in self.models.iter().zip(models) {
                let data_sets: Vec<String> =
                    model.data_sets.iter().map(DataSet::to_string).collect();
                let of = format!("{} on {}", model.model, data_sets.join(" and "));
                for (key, value) in fields.as_table().into_iter().flatten() {
                    if !["model", "data_sets"].contains(&key.as_str()) {
                        values.insert(format!("{key} of {of}"), value.to_string());
                    }
                }
            }
        }
        Ok(values)
    }
}

/// The same error with its own place. Serde (1.0) places one that is within a flattened struct at the
/// table around it.
fn better_placed(error: toml::de::Error, text: &str) -> toml::de::Error {
    #[derive(Deserialize)]
    struct Models<T> {
        #[serde(rename = "models")]
        _models: Vec<T>,
    }
    let same = |other: &toml::de::Error| other.message() == error.message();
    let images = toml::from_str::<ImageSettings>(text).err().filter(same);
    let sgd = || toml::from_str::<Models<SgdSettings>>(text).err();
    let further = || toml::from_str::<Models<FurtherSettings>>(text).err();
    let better = images.or_else(|| sgd().filter(same));
    better.or_else(|| further().filter(same)).unwrap_or(error)
}

/// The line of an error, counted from 1. An unknown key's is the first that begins with it.
fn line_of(error: &toml::de::Error, text: &str) -> Option<usize> {
    let start = error.span()?.start;
    let key = error.message().strip_prefix("unknown field `");
    let key = key.and_then(|rest| rest.split('`').next());
    let begins = |line: &str| key.is_some_and(|key| line.trim_start().starts_with(key));
    let first = text[..start].matches('\n').count();
    let further = text.lines().skip(first).position(begins);
    Some(first + further.unwrap_or(0) + 1)
}

/// The message of an error without its line ends.
fn in_a_line(error: &toml::de::Error) -> String {
    let words: Vec<&str> = error.message().split_whitespace().collect();
    words.join(" ")
}

/// Sets a key of the plan or of every model. With a model's name before the key, sets that of this
/// model only.
fn set(table: &mut toml::Table, setting: &str) -> Result<(), PlanError> {
    let refused = || PlanError::Set(setting.to_owned());
    let (key, value) = setting.split_once('=').ok_or_else(refused)?;
    let parsed: toml::Table = toml::from_str(&format!("value = {value}")).map_err(|_| refused())?;
    let value = parsed.get("value").ok_or_else(refused)?;
    let (of, key) = match key.trim().rsplit_once('.') {
        Some((of, key)) => (Some(of), key),
        None => (None, key.trim()),
    };
    const OF_THE_PLAN: [&str; 10] = [
        "data",
        "seeds",
        "swa_budgets",
        "sgd_budgets",
        "methods",
        "keep_models",
        "train_items",
        "validation_items",
        "evaluate_on",
        "padding",
    ];
    if of.is_none() && OF_THE_PLAN.contains(&key) {
        table.insert(key.to_owned(), value.clone());
        return Ok(());
    }
    let models = table.get_mut("models").and_then(toml::Value::as_array_mut);
    let mut names = Vec::new();
    let mut found = false;
    for model in models.into_iter().flatten() {
        let Some(model) = model.as_table_mut() else {
            continue;
        };
        let name = model.get("model").and_then(toml::Value::as_str);
        let name = name.unwrap_or_default().to_owned();
        if of.is_none_or(|of| of == name) {
            model.insert(key.to_owned(), value.clone());
            found = true;
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match of {
        Some(of) if !found => Err(PlanError::NoSuchModel {
            setting: setting.to_owned(),
            model: of.to_owned(),
            models: names.join(", "),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::built_in;
    use super::*;

    #[test]
    fn a_plan_survives_its_file() {
        for (name, _) in BUILT_IN {
            let plan = built_in(name);
            let again = Plan::parse(&plan.to_toml().unwrap(), name, &[]).unwrap();
            assert_eq!(again, plan);
            assert_eq!(again.differences(&plan).unwrap(), [""; 0]);
        }
    }

    #[test]
    fn what_differs_is_listed_by_key_with_both_values() {
        let here = Plan::parse(
            &Plan::text("small").unwrap(),
            "small",
            &["vgg16-bn.lr=0.5".to_owned(), "seeds=[4]".to_owned()],
        )
        .unwrap();
        assert_eq!(
            here.differences(&built_in("small")).unwrap(),
            [
                "lr of vgg16-bn on cifar10 is 0.5 here and 0.02 there",
                "seeds is [4] here and [1, 2, 3] there",
            ]
        );
    }

    #[test]
    fn a_setting_is_of_the_plan_of_every_model_or_of_one() {
        let settings = ["train_items=70", "lr=0.3", "preresnet-14.swa_lr=0.2"];
        let settings = settings.map(String::from);
        let plan = Plan::parse(&Plan::text("small").unwrap(), "small", &settings).unwrap();
        assert_eq!(plan.images.train_items, Some(70));
        let rates: Vec<_> = plan.models.iter().map(|m| (m.sgd.lr, m.swa_lr)).collect();
        assert_eq!(rates, [(0.3, 0.01), (0.3, 0.2)]);
    }

    #[test]
    fn what_is_no_plan_is_refused_in_a_line_that_says_where() {
        let small = Plan::text("small").unwrap();
        let error = |text: &str, settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
            let plan = Plan::parse(text, "plan.toml", &settings);
            let error = plan.and_then(|plan| plan.runs()).unwrap_err().to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
            error
        };
        let cases = [
            (
                error("seeds = [1]\nswa_budgets = [1]\nlr = 0.1\nmodels = []", &[]),
                "plan.toml, line 3: unknown field `lr`",
            ),
            (
                error(&small.replace("lr = 0.2", "lr = \"x\""), &[]),
                "plan.toml, line 32: invalid type: string \"x\", expected f64",
            ),
            (
                error(&small.replace("weight_decay = 3e-4", "decay = 3e-4"), &[]),
                "plan.toml, line 24: missing field `weight_decay`",
            ),
            (
                error(
                    &small.replace("train_items = 5000", "train_items = -1"),
                    &[],
                ),
                "plan.toml, line 9: invalid value: integer `-1`",
            ),
            (error("seeds = [1", &[]), "plan.toml, line 1: "),
            (error(&small, &["speed=3"]), "unknown field `speed`"),
            (error(&small, &["lr"]), "--set lr: expected KEY=VALUE"),
            (
                error(&small, &["vgg19.lr=1"]),
                "--set vgg19.lr=1: the plan has no model vgg19: name one of vgg16-bn, preresnet-14",
            ),
            (
                error(&small, &["budget=0"]),
                "budget of vgg16-bn must be at least 1, not 0",
            ),
            (
                error(&small, &["seeds=[]"]),
                "seeds must be at least one number",
            ),
            (error(&small, &["seeds=[1, 1]"]), "seeds must be"),
            (error(&small, &["swa_budgets=[0.5]"]), "swa_budgets must be"),
            (error(&small, &["sgd_budgets=[]"]), "sgd_budgets must be"),
            (error(&small, &["sgd_budgets=[0.5]"]), "sgd_budgets must be"),
            // Of 24 epochs, both are 24.
            (
                error(&small, &["vgg16-bn.sgd_budgets=[1, 1.01]"]),
                "sgd_budgets of vgg16-bn must be numbers from 1 to 100, each",
            ),
            (
                error(&small, &["methods=[]"]),
                "methods must be one or more of sgd, swa,",
            ),
            (
                error(&small, &["methods=[\"ema\", \"ema\"]"]),
                "each once, not [ema, ema]",
            ),
            (
                error(&small, &["vgg16-bn.methods=[]"]),
                "methods of vgg16-bn must be",
            ),
            (
                error(&small, &["methods=[\"adam\"]"]),
                "unknown variant `adam`",
            ),
            (
                error(&small, &["methods=[\"fge\"]", "cycle_start=25"]),
                "cannot be run: cycle_start 25 and cycle_epochs 4 put the middle",
            ),
            (
                error(&small, &["methods=[\"swag\"]", "rank=1"]),
                "cannot be run: rank must be at least 2",
            ),
            (
                error(&small.replace("lr = 0.2", "lr = 0.2\nrank = 2.5"), &[]),
                "plan.toml, line 33: invalid type: floating point `2.5`, expected usize",
            ),
            (
                error(&small, &["swa_start=25"]),
                "swa_start of vgg16-bn must be",
            ),
            (
                error(&small, &["lr=-1"]),
                "cannot be run: lr must be above 0, not -1",
            ),
            (
                error(&small, &["batch_size=0"]),
                "cannot be run: batch_size must be at least 1",
            ),
            (
                error(&small, &["validation_items=0"]),
                "cannot be run: validation_items must be at least 1",
            ),
            (error(&small, &["model=\"vgg\""]), "there is no model `vgg`"),
            (
                error(&small, &["model=\"vgg16\""]),
                "has cifar10-vgg16-swa-seed1 twice",
            ),
        ];
        for (error, part) in cases {
            assert!(error.contains(part), "{error} has no {part}");
        }
        let error = Plan::text("papers").unwrap_err().to_string();
        let expected = "which are paper, small, small-methods, gpu";
        assert!(error.ends_with(expected), "{error}");
    }
}
