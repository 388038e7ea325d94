//! Nodes: one call of an operator or of a local function.

use std::{collections::BTreeMap, fmt};

use planish_proto::onnx;
use smallvec::SmallVec;

use crate::{Attrs, ValueId};

/// Free-form key/value pairs (`metadata_props`), sorted by key.
pub type Metadata = BTreeMap<String, String>;

/// Which operator or function a node calls. The default domain is the empty string, also where a file says `ai.onnx`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct OpName {
    /// Operator set; empty for ai.onnx.
    pub domain: String,
    /// Operator.
    pub name: String,
    /// Tells functions of one name apart (IR version 10); otherwise empty.
    pub overload: String,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name for people and tools; may be empty.
    pub name: String,
    /// What is called.
    pub op: OpName,
    /// Attributes, subgraphs among them.
    pub attrs: Attrs,
    /// Documentation string.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Metadata,
    pub(crate) inputs: SmallVec<[Option<ValueId>; 4]>,
    pub(crate) outputs: SmallVec<[Option<ValueId>; 2]>,
    pub(crate) captures: Vec<ValueId>,
    /// The model itself defines what is called, which hides an operator of the same name.
    pub(crate) is_local: bool,
    /// Multi-device placement, carried through.
    pub(crate) devices: Vec<onnx::NodeDeviceConfigurationProto>,
}

impl OpName {
    /// An operator of ai.onnx.
    pub fn onnx(name: &str) -> OpName {
        OpName::new("", name)
    }

    /// An operator of any domain; `ai.onnx` and the empty string are the same.
    pub fn new(domain: &str, name: &str) -> OpName {
        OpName { domain: canonical_domain(domain).to_owned(), name: name.to_owned(), overload: String::new() }
    }

    /// True for the ai.onnx operator of this name.
    pub fn is(&self, name: &str) -> bool {
        self.domain.is_empty() && self.name == name
    }
}

/// `ai.onnx` spelled out means the default domain.
pub(crate) fn canonical_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

impl Node {
    /// True if the node calls a local function of the model.
    pub const fn is_local(&self) -> bool {
        self.is_local
    }

    /// Drops empty input slots at the end, but not those in front of a list of any length, such as the number of rounds
    /// and the condition of a Loop.
    pub(crate) fn trim_inputs(&mut self) {
        let listed =
            crate::op::of(self).and_then(|s| s.signatures.last()).filter(|s| s.inputs.1 == crate::op::VARIADIC);
        let least = listed.map_or(0, |s| s.inputs.0);
        while self.inputs.len() > least && self.inputs.last() == Some(&None) {
            self.inputs.pop();
        }
    }

    /// The value at an input slot; `None` if the slot is absent or left empty.
    pub fn input(&self, slot: usize) -> Option<ValueId> {
        self.inputs.get(slot).copied().flatten()
    }

    /// All input slots; optional inputs that are left out are `None`.
    pub fn inputs(&self) -> &[Option<ValueId>] {
        &self.inputs
    }

    /// The value at an output slot; `None` if the slot is absent or left empty.
    pub fn output(&self, slot: usize) -> Option<ValueId> {
        self.outputs.get(slot).copied().flatten()
    }

    /// All output slots; outputs that are left out are `None`.
    pub fn outputs(&self) -> &[Option<ValueId>] {
        &self.outputs
    }

    /// Values of this graph that the node's subgraphs read. Capture `k` of every subgraph is element `k`.
    pub fn captures(&self) -> &[ValueId] {
        &self.captures
    }

    /// Inputs, then captures.
    pub fn operands(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.inputs.iter().flatten().chain(&self.captures).copied()
    }
}

/// `Conv`, or `com.microsoft::FusedConv` outside the default domain.
impl fmt::Display for OpName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.domain.is_empty() {
            write!(f, "{}::", self.domain)?;
        }
        f.write_str(&self.name)?;
        if !self.overload.is_empty() {
            write!(f, ":{}", self.overload)?;
        }
        Ok(())
    }
}
