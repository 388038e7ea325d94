//! What a pass is.
//!
//! There are two shapes. A [`Rule`] looks at one node and its surroundings; the driver walks the graph with it until
//! nothing more matches. A [`Transform`] looks at the whole model. Both see it immutably and answer with patches; the
//! driver alone decides whether a patch is legal, and applies it.

use std::borrow::Cow;

use planish_ir::{
    Graph, GraphPath, Model, Node, NodeId, OpName, Opsets, Patch,
    infer::{GraphFacts, Inferred},
};

use serde::Serialize;

use crate::{Calibration, Engine, EngineError, InMemory, SampleError, Stopwatch, Target, Weights};

/// A configured pass. Its type is also its configuration in a pipeline file.
pub trait Pass: Send + Sync {
    /// How the driver runs it.
    fn shape(&self) -> Shape<'_>;
}

/// How the driver runs a pass.
pub enum Shape<'a> {
    /// Node by node, until nothing more matches.
    Rule(&'a dyn Rule),
    /// Once, on the whole model.
    Transform(&'a dyn Transform),
    /// Other passes in their order, all over again while anything changes.
    Group(&'static [Step]),
}

/// A member of a group: the name of a pass, and why it stands where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Name in the registry.
    pub pass: &'static str,
    /// Reason for its place.
    pub why_here: &'static str,
}

/// A local rewrite.
pub trait Rule: Send + Sync {
    /// ai.onnx operators at which it can match; empty for any operator of any domain.
    fn roots(&self) -> &'static [&'static str];

    /// True if it can match at a node of this operator. Rules that come from a file know only then which these are.
    fn matches(&self, op: &OpName) -> bool {
        let roots = self.roots();
        roots.is_empty() || (op.domain.is_empty() && roots.contains(&op.name.as_str()))
    }

    /// The patch for a match rooted at `node`, or why there is none.
    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip>;
}

/// A rewrite of the whole model.
pub trait Transform: Send + Sync {
    /// What is to be changed.
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError>;

    /// True if it looks at the model as it was before the first lossy pass, which is then kept for it.
    fn compares(&self) -> bool {
        false
    }
}

/// What a rule sees.
#[derive(Clone, Copy)]
pub struct RuleContext<'a> {
    /// The graph of the node: the main graph or a subgraph.
    pub graph: &'a Graph,
    /// Versions of the operator sets in use.
    pub opsets: &'a Opsets,
    /// What inference found out before the rule began, and of the nodes that the rule added since. Unlike the types in the
    /// graph these are proofs: what a file declares of inner values may be wrong.
    pub facts: &'a GraphFacts,
    /// What the result is made for.
    pub target: Target,
    /// True if somebody wants to hear of [`Skip::NearMiss`], which takes time to put into words.
    pub explains: bool,
}

impl RuleContext<'_> {
    /// Version of the ai.onnx operator set.
    pub fn opset(&self) -> i64 {
        self.opsets.get("").copied().unwrap_or(1)
    }
}

/// What a pass may use from outside.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Runs models, if the user allows one.
    pub engine: Option<&'a dyn Engine>,
    /// Calibration samples and who runs them, if the user gave any.
    pub calibration: Option<&'a Calibration<'a>>,
    /// Times models; `None` where a command has to give the same result each time.
    pub stopwatch: Option<&'a dyn Stopwatch>,
    /// Reads large weights.
    pub weights: &'a dyn Weights,
    /// What inference found out of the model, with all sizes open. Proofs, unlike the types in the graph.
    pub facts: &'a Inferred,
    /// What the result is made for.
    pub target: Target,
    /// The model before the first pass that was lossy, for a transform that [compares](Transform::compares); `None` if there
    /// was none. Nodes and values have the ids and names that they have in the model now, as far as they are in both.
    pub lossless: Option<&'a Model>,
}

impl Context<'_> {
    /// The calibration, of a pass that cannot do without it. Fails with what the user is to add.
    pub fn calibrated(&self) -> Result<&Calibration<'_>, PassError> {
        self.calibration.ok_or_else(|| {
            PassError::Precondition(
                "it looks at activations, and there is no calibration data; add `calibration: {npz: FILE}` to the pipeline, \
                 or give --calibration FILE"
                    .to_owned(),
            )
        })
    }

    /// Without engine, calibration and facts.
    pub const fn bare() -> Context<'static> {
        static NOTHING: Inferred = Inferred::NOTHING;
        Context {
            engine: None,
            calibration: None,
            stopwatch: None,
            weights: &InMemory,
            facts: &NOTHING,
            target: Target::Generic,
            lossless: None,
        }
    }
}

/// What a transform wants changed. Patches are applied in their order, and each is numbered. Those for inner graphs come
/// first: one for the graph around them may remove the node that they are in.
#[derive(Debug, Default)]
pub struct Changes {
    /// Patches and the graphs they are for.
    pub patches: Vec<(GraphPath, Patch)>,
    /// New versions of operator sets, in force once all patches are applied.
    pub opsets: Vec<(String, i64)>,
    /// IR version that the new operator sets ask for; the model's own stays if it is newer.
    pub ir_version: Option<i64>,
    /// Inputs or outputs get other types, or inputs with a default go.
    pub changes_interface: bool,
    /// Local functions that are not called any more, once all patches are applied, are to be removed.
    pub remove_uncalled_functions: bool,
    /// What was looked at and left alone.
    pub skipped: Vec<(GraphPath, NodeId, Skip)>,
    /// For the report: limits that took effect, figures that the pass measured.
    pub notes: Vec<String>,
    /// For the report: what became of nodes that could compute with fewer bits.
    pub layers: Vec<Layer>,
}

/// What became of a node that could compute with fewer bits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layer {
    /// Name of the node, or of its first output.
    pub node: String,
    /// Its operator in the model before.
    pub op: String,
    /// In what it computes.
    pub precision: &'static str,
    /// The kernel that the runtime is going to form; absent where it stays in floats, and where nothing is known of it.
    pub kernel: Option<String>,
    /// Multiply-accumulates on a sample.
    pub macs: u64,
    /// Share of the model's multiply-accumulates.
    pub share: f64,
    /// Power of the weight over that of its rounding, in dB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_sqnr_db: Option<f64>,
    /// Power of the model's outputs over that of their error with nothing else in codes but this and what reads the same, in dB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_sqnr_db: Option<f64>,
    /// Why it stays in floats, or is not as all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why a rule or a transform leaves a node alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skip {
    /// The node is not of the form that the rule is about. Not reported.
    NoMatch,
    /// It is, but a condition does not hold.
    Refused(Cow<'static, str>),
    /// A part of the form was found, and then something else. Reported only to an observer that asks for it.
    NearMiss(String),
}

impl Skip {
    /// A refusal with its reason.
    pub fn because(reason: impl Into<Cow<'static, str>>) -> Skip {
        Skip::Refused(reason.into())
    }
}

/// Why a pass cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The model lacks what the pass needs.
    #[error("{0}")]
    Precondition(String),
    /// The engine failed.
    #[error("the engine failed: {0}")]
    Engine(#[from] EngineError),
    /// The inputs of a calibration run could not be had.
    #[error("a calibration sample cannot be used: {0}")]
    Sample(#[from] SampleError),
    /// A statistic does not take what the model computes on a sample.
    #[error("the value {value:?} cannot be calibrated: {message}")]
    Calibration {
        /// Name of the value.
        value: String,
        /// What is wrong.
        message: String,
    },
    /// The file behind a weight could not be read.
    #[error("the weight {weight:?} cannot be read: {source}")]
    Read {
        /// Name of the weight.
        weight: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A tensor could not be read or built.
    #[error("in {place}: {source}")]
    Tensor {
        /// Node or value.
        place: String,
        /// What is wrong.
        source: planish_ir::TensorError,
    },
}
