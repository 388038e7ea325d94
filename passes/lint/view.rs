//! What a rule sees of a graph, and the questions that several rules ask.

use planish_ir::{DType, Graph, Node, NodeId, Operand, Tensor, Use, ValueId, infer::GraphFacts};

/// One graph of a model.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Version of the ai.onnx operator set.
    pub opset: i64,
    /// The graph.
    pub graph: &'a Graph,
    /// What inference says of its values.
    pub facts: &'a GraphFacts,
    /// True for the main graph.
    pub is_main: bool,
}

/// Which of both nodes of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    Quantize,
    Dequantize,
}

/// A QuantizeLinear or a DequantizeLinear.
#[derive(Clone, Copy)]
pub(crate) struct Grid<'a> {
    pub(crate) id: NodeId,
    pub(crate) node: &'a Node,
    pub(crate) half: Half,
}

impl<'a> View<'a> {
    /// The nodes that call operators of ONNX, not of the model itself.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (NodeId, &'a Node)> + use<'a> {
        self.graph.nodes().filter(|(_, n)| !n.is_local())
    }

    /// Every QuantizeLinear and DequantizeLinear.
    pub(crate) fn grids(&self) -> impl Iterator<Item = Grid<'a>> + use<'a> {
        self.nodes().filter_map(|(id, node)| Some(Grid { id, node, half: half(node)? }))
    }

    /// The dequantization that makes a value.
    pub(crate) fn dequantized(&self, value: ValueId) -> Option<Grid<'a>> {
        self.grid(value, Half::Dequantize)
    }

    fn grid(&self, value: ValueId, wanted: Half) -> Option<Grid<'a>> {
        let (id, node) = self.graph.producer(value).filter(|(_, n)| !n.is_local())?;
        (half(node)? == wanted).then_some(Grid { id, node, half: wanted })
    }

    /// True if a value is computed from constants by dequantization, quantization, and moving of elements alone: a weight.
    pub(crate) fn is_weight(&self, value: ValueId) -> bool {
        const MOVES: &[&str] =
            &["QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Cast", "Unsqueeze", "Squeeze", "Identity"];
        // Weights are few steps from their constant.
        let mut at = value;
        for _ in 0..8 {
            if self.graph.constant(at).is_some() {
                return true;
            }
            match self.graph.producer(at) {
                Some((_, n)) if n.op.is("Constant") => return true,
                Some((_, n)) if MOVES.iter().any(|op| n.op.is(op)) => match n.input(0) {
                    Some(next) => at = next,
                    None => return false,
                },
                Some(_) | None => return false,
            }
        }
        false
    }

    /// The tensor of a constant, also of a `Constant` node.
    pub(crate) fn constant(&self, value: ValueId) -> Option<&'a Tensor> {
        let made = || {
            let (_, node) = self.graph.producer(value).filter(|(_, n)| n.op.is("Constant") && !n.is_local())?;
            node.attrs.tensor("value")
        };
        self.graph.constant(value).or_else(made)
    }

    /// Element type of a value.
    pub(crate) fn dtype(&self, value: Option<ValueId>) -> Option<DType> {
        self.facts.fact(value?).dtype()
    }

    /// The nodes that read a value, with the slot; those that capture it for a subgraph are left out.
    pub(crate) fn readers(&self, value: ValueId) -> impl Iterator<Item = (NodeId, &'a Node, usize)> + use<'_, 'a> {
        self.graph.users(value).filter_map(|u| match u {
            Use::Node(id, Operand::Input(slot)) => Some((id, self.graph.node(id)?, slot as usize)),
            Use::Node(_, Operand::Capture(_)) | Use::Output(_) => None,
        })
    }

    /// Name of a value.
    pub(crate) fn name(&self, value: ValueId) -> String {
        self.graph.name_of(value)
    }
}

impl Grid<'_> {
    /// Element type of the quantized side.
    pub(crate) fn dtype(&self, view: &View<'_>) -> Option<DType> {
        match self.half {
            Half::Quantize => view.dtype(self.node.output(0)),
            Half::Dequantize => view.dtype(self.node.input(0)),
        }
    }

    /// Elements that share a scale along the axis; 0 if it is not in blocks.
    pub(crate) fn block(&self) -> i64 {
        self.node.attrs.int("block_size").unwrap_or(0)
    }

    /// True if there is one scale for all elements.
    pub(crate) fn is_per_tensor(&self, view: &View<'_>) -> Option<bool> {
        let scale = view.facts.fact(self.node.input(1)?);
        Some(self.block() == 0 && (scale.shape()?.is_empty() || scale.count() == Some(1)))
    }

    /// The axis that its scales are along, counted from the front.
    pub(crate) fn axis(&self, view: &View<'_>) -> Option<usize> {
        let rank = view.facts.fact(self.node.input(0)?).shape()?.len();
        planish_ir::infer::axis(self.node.attrs.int("axis").unwrap_or(1), rank).ok()
    }
}

/// Which half of a pair a node is.
pub(crate) fn half(node: &Node) -> Option<Half> {
    match node.op.name.as_str() {
        _ if node.is_local() || !matches!(node.op.domain.as_str(), "" | "com.microsoft") => None,
        "QuantizeLinear" => Some(Half::Quantize),
        "DequantizeLinear" => Some(Half::Dequantize),
        _ => None,
    }
}
