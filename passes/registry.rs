//! The table of all passes. Command-line help, the schema of pipeline files and README's list come from it.

use std::{borrow::Cow, fmt};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeOwned, DeserializeSeed, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::{Value, json};

use crate::{Pass, Shape, clean, convert, factorize, fuse, prune, quantize, rules, structure};

/// One line of the table.
pub struct Entry {
    /// Name in pipeline files.
    pub name: &'static str,
    /// Source text of the pass, whose header is its documentation.
    source: &'static str,
    build: fn(&mut dyn erased_serde::Deserializer<'_>) -> Result<Configured, erased_serde::Error>,
    schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

/// A pass and its whole configuration, defaults included.
type Configured = (Box<dyn Pass>, Value);

/// Reads a configuration; the pass is its own configuration.
fn build<P>(config: &mut dyn erased_serde::Deserializer<'_>) -> Result<Configured, erased_serde::Error>
where
    P: Pass + Serialize + DeserializeOwned + 'static,
{
    let pass: P = erased_serde::deserialize(config)?;
    let config = serde_json::to_value(&pass).map_err(de::Error::custom)?;
    Ok((Box::new(pass), config))
}

macro_rules! entry {
    ($name:literal, $source:literal, $pass:ty) => {
        Entry {
            name: $name,
            source: include_str!($source),
            build: build::<$pass>,
            schema: |generator| generator.subschema_for::<$pass>(),
        }
    };
}

/// Every pass, by name.
pub static PASSES: &[Entry] = &[
    entry!("associate-constants", "fuse/associate_constants.rs", fuse::AssociateConstants),
    entry!("attention", "fuse/attention.rs", fuse::Attention),
    entry!("awq", "quantize/awq.rs", quantize::Awq),
    entry!("bfloat16", "convert/bfloat16.rs", convert::Bfloat16),
    entry!("bias-correction", "quantize/bias_correction.rs", quantize::BiasCorrection),
    entry!("bn-into-conv", "fuse/bn_into_conv.rs", fuse::BnIntoConv),
    entry!("broadcasts", "clean/broadcasts.rs", clean::Broadcasts),
    entry!("casts", "clean/casts.rs", clean::Casts),
    entry!("codebook-weights", "quantize/codebook_weights.rs", quantize::CodebookWeights),
    entry!("constants-to-initializers", "clean/constants.rs", clean::ConstantsToInitializers),
    entry!("cp", "factorize/cp.rs", factorize::Cp),
    entry!("cse", "clean/cse.rs", clean::Cse),
    entry!("dead-code", "clean/dead_code.rs", clean::DeadCode),
    entry!("decompose", "factorize/decompose.rs", factorize::Decompose),
    entry!("dedup-initializers", "clean/dedup.rs", clean::DedupInitializers),
    entry!("drop-layers", "prune/drop_layers.rs", prune::DropLayers),
    entry!("equalize", "quantize/equalize.rs", quantize::Equalize),
    entry!("float16", "convert/float16.rs", convert::Float16),
    entry!("fold-constants", "clean/fold.rs", clean::FoldConstants),
    entry!("freeze-initializers", "clean/freeze_initializers.rs", clean::FreezeInitializers),
    entry!("fuse", "fuse/fuse.rs", fuse::Fuse),
    entry!("fused-conv", "fuse/fused_conv.rs", fuse::FusedConv),
    entry!("hard-sigmoid", "fuse/hard_sigmoid.rs", fuse::HardSigmoid),
    entry!("hoists", "clean/hoists.rs", clean::Hoists),
    entry!("inline-functions", "structure/inline_functions.rs", structure::InlineFunctions),
    entry!("inline-if", "structure/inline_if.rs", structure::InlineIf),
    entry!("inline-loop", "structure/inline_loop.rs", structure::InlineLoop),
    entry!("legalize", "quantize/legalize.rs", quantize::Legalize),
    entry!("linear-chain", "fuse/linear_chain.rs", fuse::LinearChain),
    entry!("local-constants", "structure/local_constants.rs", structure::LocalConstants),
    entry!("low-float-weights", "quantize/low_float_weights.rs", quantize::LowFloatWeights),
    entry!("low-rank", "factorize/low_rank.rs", factorize::LowRank),
    entry!("low-rank-attention", "factorize/attention.rs", factorize::LowRankAttention),
    entry!("matmul-add", "fuse/matmul_add.rs", fuse::MatMulAdd),
    entry!("merge-parallel", "fuse/merge_parallel.rs", fuse::MergeParallel),
    entry!("no-ops", "clean/no_ops.rs", clean::NoOps),
    entry!("one-hot-matmul", "clean/one_hot.rs", clean::OneHotMatmul),
    entry!("pad-into-window", "fuse/pad_into_window.rs", fuse::PadIntoWindow),
    entry!("prune", "prune/prune.rs", prune::Prune),
    entry!("qoperator", "quantize/qoperator.rs", quantize::Qoperator),
    entry!("quantize", "quantize/quantize.rs", quantize::Quantize),
    entry!("quantize-dynamic", "quantize/dynamic.rs", quantize::QuantizeDynamic),
    entry!("quantize-weights", "quantize/quantize_weights.rs", quantize::QuantizeWeights),
    entry!("raise-opset", "convert/raise_opset.rs", convert::RaiseOpset),
    entry!("requantize", "clean/requantize.rs", clean::Requantize),
    entry!("reshape-chains", "clean/reshape_chains.rs", clean::ReshapeChains),
    entry!("rotary-halves", "fuse/rotary.rs", fuse::RotaryHalves),
    entry!("rules", "rules/pass.rs", rules::UserRules),
    entry!("scale-into-linear", "fuse/scale_into_linear.rs", fuse::ScaleIntoLinear),
    entry!("sequences", "structure/sequences.rs", structure::Sequences),
    entry!("shape-values", "clean/shape_values.rs", clean::ShapeValues),
    entry!("simplify", "clean/simplify.rs", clean::Simplify),
    entry!("slices", "clean/slices.rs", clean::Slices),
    entry!("smooth-quant", "quantize/smooth_quant.rs", quantize::SmoothQuant),
    entry!("sparse-initializers", "convert/sparse_initializers.rs", convert::SparseInitializers),
    entry!("sparsify", "prune/sparsify.rs", prune::Sparsify),
    entry!("spatial-svd", "factorize/spatial_svd.rs", factorize::SpatialSvd),
    entry!("tables", "clean/tables.rs", clean::Tables),
    entry!("tensor-train", "factorize/tensor_train.rs", factorize::TensorTrain),
    entry!("transpose-chains", "clean/transpose_chains.rs", clean::TransposeChains),
    entry!("trim-subgraphs", "structure/trim_subgraphs.rs", structure::TrimSubgraphs),
    entry!("tucker", "factorize/tucker.rs", factorize::Tucker),
];

/// The line of a pass.
pub fn find(name: &str) -> Option<&'static Entry> {
    PASSES.iter().find(|e| e.name == name)
}

/// The known name that is most like a wrong one, if any is like it.
pub fn suggest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(wrong, name), name))
        .filter(|(score, _)| *score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

impl Entry {
    /// The step with its default configuration.
    pub fn default_step(&'static self) -> Result<StepConfig, String> {
        self.step(json!({})).map_err(|e| e.to_string())
    }

    /// The step with a configuration. Fails with what is wrong with it.
    pub fn configured(&'static self, config: Value) -> Result<StepConfig, String> {
        self.step(config).map_err(|e| e.to_string())
    }

    /// The step configured from a map.
    fn step<'de, D: Deserializer<'de>>(&'static self, config: D) -> Result<StepConfig, erased_serde::Error> {
        let (pass, config) = (self.build)(&mut <dyn erased_serde::Deserializer<'_>>::erase(config))?;
        Ok(StepConfig { name: self.name, config, pass })
    }

    /// JSON Schema of the configuration.
    pub fn schema(&self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        (self.schema)(generator)
    }

    /// The documentation: the header of the source file, without comment signs.
    pub fn doc(&self) -> String {
        let lines = self.source.lines().map_while(|l| l.strip_prefix("//!"));
        lines.map(|l| l.strip_prefix(' ').unwrap_or(l)).collect::<Vec<_>>().join("\n")
    }

    /// The first sentence of the documentation.
    pub fn summary(&self) -> String {
        self.doc().lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
    }
}

/// A step of a pipeline file: `- name`, or `- name: {key: value}`.
pub struct StepConfig {
    /// Name of the pass.
    pub name: &'static str,
    /// Its whole configuration, defaults included.
    pub config: Value,
    /// The configured pass.
    pub pass: Box<dyn Pass>,
}

impl StepConfig {
    /// A step with the default configuration.
    pub fn default_of(name: &str) -> Result<StepConfig, String> {
        find(name).ok_or_else(|| unknown(name))?.default_step()
    }

    /// True for a group of passes.
    pub fn is_group(&self) -> bool {
        matches!(self.pass.shape(), Shape::Group(_))
    }
}

impl fmt::Debug for StepConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StepConfig").field(&self.name).finish()
    }
}

fn unknown(name: &str) -> String {
    match suggest(name, PASSES.iter().map(|e| e.name)) {
        Some(like) => format!("unknown pass `{name}`; did you mean `{like}`?"),
        None => format!("unknown pass `{name}`; `planish passes` lists them"),
    }
}

impl<'de> Deserialize<'de> for StepConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StepConfig, D::Error> {
        struct StepVisitor;
        impl<'de> Visitor<'de> for StepVisitor {
            type Value = StepConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a pass, or a map from one name to its configuration")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<StepConfig, E> {
                StepConfig::default_of(name).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StepConfig, A::Error> {
                let name: String = map.next_key()?.ok_or_else(|| de::Error::custom("a step names a pass"))?;
                let entry = find(&name).ok_or_else(|| de::Error::custom(unknown(&name)))?;
                let step = map.next_value_seed(Config(entry))?;
                if map.next_key::<String>()?.is_some() {
                    return Err(de::Error::custom("a step has one pass; put the next one into a line of its own"));
                }
                Ok(step)
            }
        }
        deserializer.deserialize_any(StepVisitor)
    }
}

struct Config(&'static Entry);

impl<'de> DeserializeSeed<'de> for Config {
    type Value = StepConfig;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<StepConfig, D::Error> {
        self.0.step(deserializer).map_err(de::Error::custom)
    }
}

/// As it is read, with all defaults spelled out.
impl Serialize for StepConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.config.as_object() {
            Some(c) if !c.is_empty() => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(self.name, c)?;
                map.end()
            }
            _ => serializer.serialize_str(self.name),
        }
    }
}

impl JsonSchema for StepConfig {
    fn schema_name() -> Cow<'static, str> {
        "Step".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<&str> = PASSES.iter().map(|e| e.name).collect();
        let mut forms = vec![json!({"type": "string", "enum": names})];
        for e in PASSES {
            forms.push(json!({
                "type": "object",
                "description": e.summary(),
                "properties": {e.name: e.schema(generator)},
                "required": [e.name],
                "additionalProperties": false,
            }));
        }
        schemars::json_schema!({"description": "One pass, by name or with its configuration.", "anyOf": forms})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_header_is_complete() {
        assert!(PASSES.is_sorted_by_key(|e| e.name));
        for e in PASSES {
            let doc = e.doc();
            for part in ["Before", "After", "When", "Refuses", "Numerics", "Reference"] {
                assert!(doc.lines().any(|l| l.starts_with(part)), "{} has no line {part}", e.name);
            }
            assert!(e.default_step().is_ok(), "{} has no default configuration", e.name);
        }
    }

    #[test]
    fn groups_name_passes_that_exist() {
        for e in PASSES {
            let step = e.default_step().unwrap();
            if let Shape::Group(steps) = step.pass.shape() {
                for s in steps {
                    assert!(find(s.pass).is_some(), "{} names {}", e.name, s.pass);
                }
            }
        }
    }

    #[test]
    fn a_wrong_name_gets_a_suggestion() {
        assert!(StepConfig::default_of("fold-constant").unwrap_err().contains("`fold-constants`"));
        assert!(StepConfig::default_of("xyzzy").unwrap_err().contains("planish passes"));
    }
}
