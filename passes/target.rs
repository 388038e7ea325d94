//! What a model is compiled for.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a model is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Standard operators, for any runtime.
    #[default]
    Generic,
    /// ONNX Runtime, CPU execution provider.
    OnnxruntimeCpu,
    /// ONNX Runtime, CUDA execution provider.
    OnnxruntimeGpu,
    /// TensorRT.
    Tensorrt,
}

impl Target {
    /// Every target.
    pub const ALL: [Target; 4] = [Target::Generic, Target::OnnxruntimeCpu, Target::OnnxruntimeGpu, Target::Tensorrt];

    /// Its name in pipelines, rules and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Target::Generic => "generic",
            Target::OnnxruntimeCpu => "onnxruntime-cpu",
            Target::OnnxruntimeGpu => "onnxruntime-gpu",
            Target::Tensorrt => "tensorrt",
        }
    }

    /// What it is, in a few words.
    pub const fn summary(self) -> &'static str {
        match self {
            Target::Generic => "Standard operators, for any runtime",
            Target::OnnxruntimeCpu => "ONNX Runtime, CPU execution provider",
            Target::OnnxruntimeGpu => "ONNX Runtime, CUDA execution provider",
            Target::Tensorrt => "TensorRT",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Fails with the names that there are.
impl FromStr for Target {
    type Err = String;

    fn from_str(name: &str) -> Result<Target, String> {
        Target::ALL.into_iter().find(|t| t.name() == name).ok_or_else(|| {
            let known = Target::ALL.map(Target::name).join(", ");
            format!("unknown target `{name}`; there are {known}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_pipelines() {
        for t in Target::ALL {
            assert_eq!(t.name().parse(), Ok(t));
            assert_eq!(serde_json::to_value(t).unwrap(), t.name());
        }
        assert!("tensort".parse::<Target>().is_err());
    }
}
