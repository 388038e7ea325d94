//! Compute with 8-bit (16-bit, float8) codes instead of floats, on grids found on calibration samples.
//!
//! Before     c = Conv (x, w, b);  y = Relu (c)
//! After      d = DequantizeLinear (QuantizeLinear (x));  c = Conv (d, DequantizeLinear (w'), DequantizeLinear (b'));
//!            y = DequantizeLinear (QuantizeLinear (Relu (c)))
//! When       Conv, ConvTranspose, MatMul and Gemm with constant float32 weights; and what lies between them, where that takes
//!            less time: Add, Mul, Concat, pools, views, sigmoid gates
//! Refuses    weights that are no constants, and products of two activations · alpha or beta other than 1 · what the target has
//!            no kernel for · what is quantized already · what is excluded
//! Numerics   Lossy: activations move by up to half a step of their range over 255, weights by half a step of their channel
//! Reference  Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
//!            CVPR 2018; Wu et al., Integer Quantization for Deep Learning Inference, 2020
//!
//! The file stays standard ONNX: the pairs say what may be computed in codes, and the runtime forms kernels of it. Where they
//! stand is decided by what the target fuses. For onnxruntime on CPUs and for `generic`: unsigned activations, signed weights
//! with one scale per channel, 32-bit biases, codes at the outputs of convolutions, floats at those of matrix products unless
//! codes are all that is read of them. For TensorRT: symmetric, at the inputs of products only, float biases, and on a residual
//! connection into a convolution.
//!
//! `observer` says how much of a range is kept: `auto`, `minmax`, `percentile`, `entropy` or `mse`. `reduce_range: auto` lets no
//! channel of a weight saturate the 16-bit sums of x86 processors without VNNI; `never` is for those with it, and for ARM.
//!
//! `rounding: gptq` rounds weights for what they are multiplied with on 32 of the samples: errors of neighbours do not add up where
//! neighbours in an image are alike.
//!
//! `sensitivity: auto` compares the outputs on `samples` calibration samples (from all over them; ranges have seen them too)
//! with those of the model before, and holds them to `min_cosine`, `min_sqnr_db` and `top1_agreement`. Where all in codes does
//! not keep these, it rounds weights as above, measures on `probes` samples what each product alone does to the outputs, changes observers, and leaves
//! products in 16-bit codes, where the target has them, or in float32: as few multiply-accumulates as hold the bound. It fails
//! if less than `least_share` of them would be left in codes.

use std::collections::BTreeMap;

use planish_ir::{GraphPath, Model, Node, NodeId, ValueId, cost, infer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    clipping::Observer,
    grid::Codes,
    static_::{
        auto::{self, Asked},
        bound::Bound,
        draft::Draft,
        emit::{self, Style},
        grids::{Fit, Ranges},
        place::Placement,
        predict::{self, Listed},
        sensitivity::{Level, Options},
        unit::{self, Place, Role, Unit},
        weights::{ReduceRange, Rounding},
    },
};
use crate::{Changes, Context, Pass, PassError, Shape, Skip, Target, Transform, calibration::bindings};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quantize {
    /// Type of the codes.
    pub scheme: Scheme,
    /// How much of the range of an activation is kept.
    pub observer: Observer,
    /// Of the observer `percentile`: how many per cent of the numbers are kept.
    pub percentile: f64,
    /// Weights have one scale for each output channel, not one in all.
    pub per_channel: bool,
    /// Products to quantize, of `Conv`, `ConvTranspose`, `MatMul` and `Gemm`; all of them if empty.
    pub operators: Vec<String>,
    /// Nodes and weights that stay in float32, by name; `*` stands for anything.
    pub exclude: Vec<String>,
    /// Activations are symmetric around 0.
    pub symmetric: Choice,
    /// Whether weights leave room for saturating sums.
    pub reduce_range: ReduceRange,
    /// How weights of 8-bit integers are rounded.
    pub rounding: WeightRounding,
    /// Type of biases.
    pub bias: BiasType,
    /// Whether it is measured what codes do to the outputs, and products stay in higher precision where that is too much.
    pub sensitivity: Sensitivity,
    /// With `sensitivity: auto`, least cosine of each output with that of the model before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_cosine: Option<f64>,
    /// With `sensitivity: auto`, least signal to quantization noise ratio of each output, in dB; measured before a Softmax,
    /// LogSoftmax, Sigmoid or Tanh that the output ends with. 18 if no bound is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_sqnr_db: Option<f64>,
    /// With `sensitivity: auto`, least share of rows with the same largest element, of each output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1_agreement: Option<f64>,
    /// With `sensitivity: auto`, least share of multiply-accumulates in codes.
    pub least_share: f64,
    /// With `sensitivity: auto`, how many calibration samples outputs are compared on, at most.
    pub samples: u64,
    /// With `sensitivity: auto`, on how many of them single products are measured, at most.
    pub probes: u64,
}

/// Type of the codes of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// 8-bit integers.
    #[default]
    Int8,
    /// 16-bit integers, with weights of 8 bits.
    Int16,
    /// Floats of 8 bits (E4M3), for activations and weights.
    Fp8,
}

/// Who decides which products compute with codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sensitivity {
    /// All that can.
    #[default]
    Off,
    /// As many as the outputs allow.
    Auto,
}

/// Yes, no, or what the target wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// What the target wants.
    #[default]
    Auto,
    /// Yes.
    Always,
    /// No.
    Never,
}

/// How weights are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WeightRounding {
    /// `nearest`; with `sensitivity: auto` `gptq` if nearest codes do not keep the bound.
    #[default]
    Auto,
    /// Each to the nearest code.
    Nearest,
    /// For least error of the products on calibration samples.
    Gptq,
}

/// Type of biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BiasType {
    /// What the target wants.
    #[default]
    Auto,
    /// 32-bit integers, with the scale of the products.
    Int32,
    /// As it is.
    Float,
}

/// The bound if none is given: an error of an eighth of the output's norm.
const MIN_SQNR_DB: f64 = 18.0;

impl Default for Quantize {
    fn default() -> Quantize {
        Quantize {
            scheme: Scheme::Int8,
            observer: Observer::default(),
            percentile: 99.99,
            per_channel: true,
            operators: Vec::new(),
            exclude: Vec::new(),
            symmetric: Choice::Auto,
            reduce_range: ReduceRange::Auto,
            rounding: WeightRounding::Auto,
            bias: BiasType::Auto,
            sensitivity: Sensitivity::Off,
            min_cosine: None,
            min_sqnr_db: None,
            top1_agreement: None,
            least_share: 0.0,
            samples: 16,
            probes: 4,
        }
    }
}

impl Pass for Quantize {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

/// What can be decided about: products that read the same activation, which are rounded together.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// The products.
    pub(crate) nodes: Vec<NodeId>,
}

/// What the graph offers, before anything is decided.
pub(crate) struct Candidates {
    /// Nodes that can compute with codes.
    pub(crate) units: BTreeMap<NodeId, Unit>,
    /// Nodes that cannot, or are not to.
    pub(crate) refused: Vec<(NodeId, Skip)>,
}

impl Transform for Quantize {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        self.check(model, cx.target)?;
        let calibration = cx.calibrated()?;
        let sample = calibration.samples.get(0)?;
        let sizes = bindings(model, &sample);
        let sized = infer::infer(model, &sizes);
        let at = self.at(model, cx, &sized);
        let candidates = self.candidates(at);
        let sites = candidates.sites(at);
        let mut changes = Changes::default();
        let skipped = |(id, skip): &(NodeId, Skip)| (GraphPath::main(), *id, skip.clone());
        changes.skipped = candidates.refused.iter().map(skipped).collect();
        if sites.is_empty() {
            return Ok(changes);
        }
        let (fit, style) = (self.fit(cx.target), self.style(cx.target));
        let (histograms, weights, units) = (BTreeMap::new(), BTreeMap::new(), candidates.units);
        let mut draft =
            Draft { at, model, calibration, units, fit, style, histograms, ranges: Ranges::default(), weights };
        if self.rounding == WeightRounding::Gptq {
            draft.compensate(&mut changes.notes)?;
        }
        let total = cost::cost_of(model, &sized, &sizes);
        let (written, decisions) = match self.sensitivity {
            Sensitivity::Off => {
                let all = sites.iter().flat_map(|s| s.nodes.iter().map(|n| (*n, Level::Codes))).collect();
                (draft.write(&all)?, BTreeMap::new())
            }
            Sensitivity::Auto => {
                auto::assign(&mut draft, &sites, &total, &self.asked(cx.target, at), &mut changes.notes)?
            }
        };
        let macs = |node: &Node| cost::node_macs(model, node, sized.graph(), &sizes).unwrap_or(0);
        changes.layers = predict::layers(&Listed {
            at,
            written: &written,
            refused: &candidates.refused,
            decisions: &decisions,
            precision: self.precision(),
            macs: &macs,
            total: total.macs,
        });
        changes.notes.push(summary(&written.placement, &total));
        changes.patches.push((GraphPath::main(), written.patch));
        Ok(changes)
    }
}

impl Quantize {
    /// A bound that nothing is held to, or that nothing can meet or miss, is a slip.
    fn check_bounds(&self) -> Result<(), String> {
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let wrong = [
            ("min_cosine", self.min_cosine.filter(|&x| !(-1.0..=1.0).contains(&x))),
            ("min_sqnr_db", self.min_sqnr_db.filter(|x| !x.is_finite())),
            ("top1_agreement", self.top1_agreement.filter(|&x| !share(x))),
            ("least_share", Some(self.least_share).filter(|&x| !share(x))),
        ];
        if let Some((key, x)) = wrong.iter().find_map(|(key, x)| Some((key, (*x)?))) {
            return Err(format!("`{key}: {x}` is out of its range"));
        }
        let is_bounded =
            self.min_cosine.or(self.min_sqnr_db).or(self.top1_agreement).is_some() || self.least_share > 0.0;
        match self.sensitivity == Sensitivity::Off && is_bounded {
            true => {
                Err("bounds are kept to with `sensitivity: auto` only; for the result as a whole there is `verify`"
                    .to_owned())
            }
            false => Ok(()),
        }
    }

    /// Fails if the model or the target does not have what the scheme needs.
    fn check(&self, model: &Model, target: Target) -> Result<(), PassError> {
        self.check_bounds().map_err(PassError::Precondition)?;
        let needed = match self.scheme {
            Scheme::Int8 => 13,
            Scheme::Fp8 => 19,
            Scheme::Int16 => 21,
        };
        let opset = model.opset();
        if opset < needed {
            return Err(PassError::Precondition(format!(
                "the model has opset {opset}, and this scheme needs {needed} or later; run `raise-opset` first"
            )));
        }
        let reason = match (self.scheme, target) {
            (Scheme::Int16, Target::OnnxruntimeCpu) => "onnxruntime has no kernels for 16-bit activations on CPUs",
            (Scheme::Fp8, Target::OnnxruntimeCpu) => "onnxruntime has no kernels for float8 on CPUs",
            (Scheme::Int16, Target::Tensorrt | Target::OnnxruntimeGpu) => "TensorRT has no 16-bit integers",
            _ => return Ok(()),
        };
        Err(PassError::Precondition(format!("{reason}; choose another scheme or target")))
    }

    const fn inputs_only(target: Target) -> bool {
        matches!(target, Target::Tensorrt | Target::OnnxruntimeGpu)
    }

    fn is_symmetric(&self, target: Target) -> bool {
        match self.symmetric {
            Choice::Auto => Quantize::inputs_only(target) || self.scheme == Scheme::Fp8,
            Choice::Always => true,
            // TensorRT refuses every other zero point, and float8 has none.
            Choice::Never => target == Target::Tensorrt || self.scheme == Scheme::Fp8,
        }
    }

    fn codes(&self, target: Target) -> Codes {
        match (self.scheme, self.is_symmetric(target)) {
            (Scheme::Int8, false) => Codes::U8,
            (Scheme::Int8, true) => Codes::I8,
            (Scheme::Int16, false) => Codes::U16,
            (Scheme::Int16, true) => Codes::I16,
            (Scheme::Fp8, _) => Codes::F8,
        }
    }

    const fn precision(&self) -> &'static str {
        match self.scheme {
            Scheme::Int8 => "int8",
            Scheme::Int16 => "int16",
            Scheme::Fp8 => "float8",
        }
    }

    fn at<'a>(&self, model: &'a Model, cx: &'a Context<'_>, sized: &'a infer::Inferred) -> Place<'a> {
        Place {
            graph: &model.graph,
            facts: cx.facts.graph(),
            sizes: sized.graph(),
            target: cx.target,
            opset: model.opset(),
            inputs_only: Quantize::inputs_only(cx.target),
            absorbs: !self.is_symmetric(cx.target),
        }
    }

    fn fit(&self, target: Target) -> Fit {
        let Quantize { observer, percentile, .. } = *self;
        Fit { codes: self.codes(target), symmetric: self.is_symmetric(target), observer, percentile }
    }

    fn style(&self, target: Target) -> Style {
        let codes = if self.scheme == Scheme::Fp8 { Codes::F8 } else { Codes::I8 };
        let reduce = (self.codes(target) == Codes::U8).then_some(self.reduce_range);
        let integer_bias = match self.bias {
            BiasType::Auto => !Quantize::inputs_only(target) && self.scheme != Scheme::Fp8,
            BiasType::Int32 => true,
            BiasType::Float => false,
        };
        Style { rounding: Rounding { codes, per_channel: self.per_channel, reduce }, integer_bias }
    }

    /// What the outputs are held to, and what may be done for it.
    fn asked(&self, target: Target, at: Place<'_>) -> Asked {
        let Quantize { min_cosine, min_sqnr_db, top1_agreement, least_share, samples, probes, .. } = *self;
        let observers = match (self.observer, self.scheme) {
            (Observer::Auto, Scheme::Int8) => vec![Observer::MinMax, Observer::Mse, Observer::Percentile],
            _ => Vec::new(),
        };
        // TensorRT has no 16-bit integers, and onnxruntime no kernels for them.
        let has_wide = target == Target::Generic && self.scheme == Scheme::Int8 && at.opset >= 21;
        let steps = has_wide.then_some(Level::Wide).into_iter().chain([Level::Float]).collect();
        let is_bounded = min_cosine.is_some() || min_sqnr_db.is_some() || top1_agreement.is_some();
        let min_sqnr_db = min_sqnr_db.or((!is_bounded).then_some(MIN_SQNR_DB));
        let bound = Bound { min_cosine, min_sqnr_db, top1_agreement };
        let compensates = self.rounding == WeightRounding::Auto;
        Asked { bound, least_share, samples, probes, options: Options { observers, steps }, compensates }
    }

    /// What the graph offers.
    pub(crate) fn candidates(&self, at: Place<'_>) -> Candidates {
        let (mut units, mut refused) = (BTreeMap::new(), Vec::new());
        for (id, node) in at.graph.nodes() {
            match unit::unit(at, id, node).and_then(|u| self.wanted(at, u)) {
                Ok(unit) => drop(units.insert(id, unit)),
                Err(Skip::NoMatch) => {}
                Err(skip) => refused.push((id, skip)),
            }
        }
        Candidates { units, refused }
    }

    /// The unit, unless the user does not want it.
    fn wanted(&self, at: Place<'_>, unit: Unit) -> Result<Unit, Skip> {
        let label = emit::label(at.graph, unit.node);
        let weight = match &unit.role {
            Role::Linear(l) => Some(at.graph.name_of(l.weight)),
            _ => None,
        };
        let excluded = |name: &String| self.exclude.iter().any(|pattern| matches(pattern, name));
        if [Some(&label), weight.as_ref()].into_iter().flatten().any(excluded) {
            return Err(Skip::because("it is listed in `exclude`"));
        }
        let op = at.graph.node(unit.node).map_or("", |n| n.op.name.as_str());
        let is_listed = self.operators.is_empty() || self.operators.iter().any(|o| o == op);
        if weight.is_some() && !is_listed {
            return Err(Skip::because("its operator is not listed in `operators`"));
        }
        Ok(unit)
    }
}

impl Candidates {
    /// The products, those together that read the same codes.
    pub(crate) fn sites(&self, at: Place<'_>) -> Vec<Site> {
        let mut by_root: BTreeMap<_, Vec<NodeId>> = BTreeMap::new();
        for unit in self.units.values().filter(|u| matches!(u.role, Role::Linear(_))) {
            let input = at.graph.node(unit.node).and_then(|n| n.input(0));
            by_root.entry(input.map(|v| self.root(at, v))).or_default().push(unit.node);
        }
        by_root.into_values().map(|nodes| Site { nodes }).collect()
    }

    /// Where the elements of a value were made, before they were moved.
    fn root(&self, at: Place<'_>, mut value: ValueId) -> ValueId {
        let before = |value: ValueId| {
            let (id, node) = at.graph.producer(value)?;
            let unit = self.units.get(&id).filter(|u| matches!(u.role, Role::Passes | Role::Affine { .. }))?;
            node.input(*unit.reads.first()?)
        };
        while let Some(from) = before(value) {
            value = from;
        }
        value
    }
}

/// True if a name is what a pattern describes, in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match left.split_once(part) {
            Some((_, after)) => left = after,
            None => return false,
        }
    }
    left.ends_with(last)
}

fn summary(placement: &Placement, total: &cost::ModelCost) -> String {
    let (in_codes, all) = predict::share(placement, total);
    let products = placement.units.values().filter(|u| matches!(u.role, Role::Linear(_))).count();
    let share = 100.0 * in_codes as f64 / all.max(1) as f64;
    format!(
        "{products} products in codes, {share:.1} % of the MACs; {} nodes between them",
        placement.units.len() - products
    )
}

#[cfg(test)]
#[path = "static_/tests.rs"]
mod tests;
