//! Which nodes can compute with codes, and what each of them asks for.

use planish_ir::{DType, Dim, Graph, Node, NodeId, ValueId, infer::GraphFacts, op};

use crate::{Skip, Target, clean};

/// A node that can compute with codes.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    /// The node.
    pub(crate) node: NodeId,
    /// What it does with codes.
    pub(crate) role: Role,
    /// Slots of activations.
    pub(crate) reads: Vec<usize>,
    /// Its output, or that of the rectifier behind it that the limits of the codes replace.
    pub(crate) result: ValueId,
    /// The rectifier.
    pub(crate) absorbs: Option<NodeId>,
    /// Limits that the rectifier sets.
    pub(crate) bounds: Option<(f32, f32)>,
    /// Multiply-accumulates of one run, with a size of 1 for every open dim; for shares only.
    pub(crate) macs: u64,
}

/// What a node does with codes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Role {
    /// A product with a constant weight.
    Linear(Linear),
    /// A kernel for codes at every input and at the output.
    Kernel(&'static str),
    /// Moves or picks elements; input and output share one grid.
    Passes,
    /// `factor * x + offset` with a positive factor: the same codes on another grid.
    Affine { factor: f32, offset: f32 },
    /// `clamp(alpha * x + beta, 0, 1)`, by a sum whose result saturates.
    HardGate { alpha: f32, beta: f32 },
    /// `x` times a gate of itself.
    SelfGated(Gate),
    /// A sum whose other summand is a product that adds it at its end.
    AddedTo(NodeId),
}

/// Gates between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Gate {
    /// `clamp(x / 6 + 1 / 2, 0, 1)`.
    Hard,
    /// The logistic function of a positive multiple.
    Sigmoid(f32),
}

/// A product with a constant weight.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Linear {
    /// Which product.
    pub(crate) op: Product,
    /// The weight.
    pub(crate) weight: ValueId,
    /// Axis of the weight with its output channels; it has one scale for each.
    pub(crate) axis: usize,
    /// The bias, if there is one.
    pub(crate) bias: Option<ValueId>,
}

/// Products that have kernels for codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    Conv,
    ConvTranspose,
    MatMul,
    Gemm,
}

impl Product {
    /// True if its kernel can give floats.
    pub(crate) const fn gives_floats(self) -> bool {
        matches!(self, Product::MatMul | Product::Gemm)
    }
}

/// Where nodes are looked at.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) graph: &'a Graph,
    /// What holds whatever the open sizes are.
    pub(crate) facts: &'a GraphFacts,
    /// The same with the sizes of a sample, for costs.
    pub(crate) sizes: &'a GraphFacts,
    pub(crate) target: Target,
    pub(crate) opset: i64,
    /// Codes are at the inputs of products only; nothing between products computes with them.
    pub(crate) inputs_only: bool,
    /// The lowest code is that of 0, where nothing is negative; so a rectifier in front of codes does nothing.
    pub(crate) absorbs: bool,
}

impl Place<'_> {
    /// True for a tensor of 32-bit floats that is computed or given at run time.
    pub(crate) fn is_activation(&self, value: ValueId) -> bool {
        self.facts.fact(value).dtype() == Some(DType::F32) && clean::constant_of(self.graph, value).is_none()
    }

    /// Elements of a value, with a size of 1 for every open dim.
    pub(crate) fn elements(&self, value: ValueId) -> u64 {
        let shape = self.sizes.fact(value).shape().unwrap_or_default();
        shape.iter().fold(1u64, |n, d| n.saturating_mul(d.known().unwrap_or(1)))
    }

    /// The single positive or negative number that a constant holds.
    fn number(&self, value: ValueId) -> Option<f32> {
        let t = clean::constant_of(self.graph, value).filter(|t| t.dtype() == DType::F32)?;
        t.single_f64().map(|v| v as f32).filter(|v| v.is_finite())
    }

    /// True for a tensor that has been dequantized already.
    fn is_dequantized(&self, value: ValueId) -> bool {
        self.graph.producer(value).is_some_and(|(_, n)| n.op.is("DequantizeLinear"))
    }
}

/// The node as a unit; `Skip::NoMatch` for nodes that have nothing to do with codes.
pub(crate) fn unit(at: Place<'_>, id: NodeId, node: &Node) -> Result<Unit, Skip> {
    if op::of(node).is_none() {
        return Err(Skip::NoMatch);
    }
    let (role, reads) = role(at, node)?;
    let output = node.output(0).ok_or(Skip::NoMatch)?;
    if node.outputs().len() > 1 && node.outputs().iter().skip(1).any(Option::is_some) {
        return Err(Skip::because("it has several outputs"));
    }
    for value in reads.iter().filter_map(|&slot| node.input(slot)) {
        if at.is_dequantized(value) {
            return Err(Skip::because("it is quantized already"));
        }
    }
    let macs = match &role {
        Role::Linear(l) => {
            let t = clean::constant_of(at.graph, l.weight);
            let channels = t.as_ref().and_then(|t| t.dims().get(l.axis).copied()).unwrap_or(1).max(1);
            let taps = t.map_or(0, |t| t.elements()) / channels;
            // A transposed convolution spreads each input element.
            let count = if l.op == Product::ConvTranspose { node.input(0).unwrap_or(output) } else { output };
            at.elements(count).saturating_mul(taps)
        }
        _ => 0,
    };
    let mut unit = Unit { node: id, role, reads, result: output, absorbs: None, bounds: None, macs };
    if at.absorbs && !at.inputs_only {
        unit.absorb(at, output);
    }
    Ok(unit)
}

impl Unit {
    /// Takes a rectifier in that is the only reader of the output.
    fn absorb(&mut self, at: Place<'_>, output: ValueId) {
        if !matches!(self.role, Role::Linear(_) | Role::Kernel(_)) {
            return;
        }
        let Some((id, node, 0)) = at.graph.only_user(output) else { return };
        if op::of(node).is_none() || !node.op.domain.is_empty() {
            return;
        }
        let bounds = match node.op.name.as_str() {
            "Relu" => (0.0, f32::INFINITY),
            "Clip" => {
                let limit = |slot: usize, attr: &str, none: f32| match node.input(slot) {
                    Some(v) => at.number(v),
                    None => Some(node.attrs.float(attr).unwrap_or(none)),
                };
                match (limit(1, "min", f32::NEG_INFINITY), limit(2, "max", f32::INFINITY)) {
                    (Some(low), Some(high)) if low <= 0.0 && high > 0.0 => (low, high),
                    _ => return,
                }
            }
            _ => return,
        };
        let Some(result) = node.output(0) else { return };
        (self.absorbs, self.bounds, self.result) = (Some(id), Some(bounds), result);
    }
}

fn role(at: Place<'_>, node: &Node) -> Result<(Role, Vec<usize>), Skip> {
    match (node.op.domain.as_str(), node.op.name.as_str()) {
        ("", "Conv") => linear(at, node, Product::Conv),
        ("", "ConvTranspose") => linear(at, node, Product::ConvTranspose),
        ("", "MatMul") => linear(at, node, Product::MatMul),
        ("", "Gemm") => linear(at, node, Product::Gemm),
        ("com.microsoft", "FusedConv") => {
            Err(Skip::because("a convolution that is fused with its activation has no kernel for codes"))
        }
        ("", "Add") if at.inputs_only => added_to(at, node),
        _ if at.inputs_only => Err(Skip::NoMatch),
        (domain, name) => glue(at, node, domain, name),
    }
}

fn linear(at: Place<'_>, node: &Node, product: Product) -> Result<(Role, Vec<usize>), Skip> {
    let (Some(x), Some(w)) = (node.input(0), node.input(1)) else { return Err(Skip::NoMatch) };
    if !at.is_activation(x) {
        let is_float = at.facts.fact(x).dtype() == Some(DType::F32);
        return match (product, is_float) {
            (Product::MatMul, true) => {
                Err(Skip::because("the weight is its left factor, which has no kernel for codes"))
            }
            (_, true) => Err(Skip::NoMatch),
            (_, false) => Err(Skip::because("it does not compute in float32")),
        };
    }
    let Some(weight) = clean::constant_of(at.graph, w) else {
        let reason = match (at.is_dequantized(w), product) {
            (true, _) => "its weight is quantized already",
            (false, Product::MatMul) => "it multiplies two activations, which gains little and costs precision",
            (false, _) => "its weight is no constant",
        };
        return Err(Skip::because(reason));
    };
    if weight.dtype() != DType::F32 || weight.elements() == 0 {
        return Err(Skip::because("its weight is no tensor of float32 with elements"));
    }
    let attr = |name: &str, default: i64| node.attrs.int(name).unwrap_or(default);
    let rank = weight.rank();
    let axis = match product {
        Product::Conv if rank >= 3 => 0,
        Product::ConvTranspose if rank >= 3 && at.target != Target::OnnxruntimeCpu => match attr("group", 1) {
            1 => 1,
            _ => return Err(Skip::because("it is a transposed convolution in groups, of which axis 1 holds only one")),
        },
        Product::ConvTranspose => {
            return Err(Skip::because("onnxruntime has no kernel for transposed convolutions of codes"));
        }
        Product::MatMul if rank == 2 => 1,
        Product::MatMul => return Err(Skip::because("its weight is no matrix")),
        Product::Gemm if rank == 2 => {
            let floats = |name: &str| node.attrs.float(name).unwrap_or(1.0);
            let is_plain = floats("alpha") == 1.0 && (node.input(2).is_none() || floats("beta") == 1.0);
            if attr("transA", 0) != 0 || !is_plain || node.attrs.get("broadcast").is_some() {
                return Err(Skip::because("it transposes its input, or has alpha or beta other than 1"));
            }
            if attr("transB", 0) != 0 { 0 } else { 1 }
        }
        Product::Conv | Product::Gemm => return Err(Skip::because("its weight has another rank than it should")),
    };
    let channels = weight.dims().get(axis).copied().unwrap_or(0);
    let bias = match node.input(2) {
        None => None,
        Some(b) => match clean::constant_of(at.graph, b) {
            Some(t) if t.dims() == [channels] && t.dtype() == DType::F32 => Some(b),
            Some(_) => return Err(Skip::because("its bias is not one number for each output channel")),
            None => return Err(Skip::because("its bias is no constant")),
        },
    };
    Ok((Role::Linear(Linear { op: product, weight: w, axis, bias }), vec![0]))
}

/// The residual connection of a sum: the runtime adds what comes through it at the end of the product on the other side.
fn added_to(at: Place<'_>, node: &Node) -> Result<(Role, Vec<usize>), Skip> {
    let product = |slot: usize| {
        let value = node.input(slot)?;
        let (id, _, _) = at.graph.only_user(value).and(at.graph.producer(value)).map(|(id, n)| (id, n, value))?;
        let made = at.graph.node(id)?;
        let is_product = ["Conv", "ConvTranspose"].iter().any(|op| made.op.is(op));
        (is_product && unit(at, id, made).is_ok()).then_some(id)
    };
    let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { return Err(Skip::NoMatch) };
    if a == b || !at.is_activation(a) || !at.is_activation(b) {
        return Err(Skip::NoMatch);
    }
    match (product(0), product(1)) {
        // Of two products, the one that the shortcut goes through is the earlier one.
        (Some(first), Some(second)) if first > second => Ok((Role::AddedTo(first), vec![1])),
        (_, Some(second)) => Ok((Role::AddedTo(second), vec![0])),
        (Some(first), None) => Ok((Role::AddedTo(first), vec![1])),
        (None, None) => Err(Skip::NoMatch),
    }
}

/// Operators between products.
fn glue(at: Place<'_>, node: &Node, domain: &str, name: &str) -> Result<(Role, Vec<usize>), Skip> {
    let x = node.input(0).ok_or(Skip::NoMatch)?;
    let float = |v: &ValueId| at.facts.fact(*v).dtype() == Some(DType::F32);
    if !float(&x) {
        return Err(Skip::NoMatch);
    }
    let is_cpu = at.target == Target::OnnxruntimeCpu;
    let first = |role: Role| if at.is_activation(x) { Ok((role, vec![0])) } else { Err(Skip::NoMatch) };
    match (domain, name) {
        ("", "Add" | "Mul" | "Concat") => {
            let inputs: Vec<ValueId> = node.inputs().iter().copied().flatten().collect();
            if inputs.len() != node.inputs().len() || !inputs.iter().all(float) {
                return Err(Skip::NoMatch);
            }
            if is_cpu && let [a, b] = inputs.as_slice() {
                let affine = |v: ValueId, other: usize| {
                    let number = at.number(v).filter(|_| same_shape(at, node, other))?;
                    let role = match name {
                        "Mul" if number > 0.0 => Role::Affine { factor: number, offset: 0.0 },
                        "Add" if !is_rectified(at, node) => Role::Affine { factor: 1.0, offset: number },
                        _ => return None,
                    };
                    Some((role, vec![other]))
                };
                if let Some(found) = affine(*a, 1).or_else(|| affine(*b, 0)) {
                    return Ok(found);
                }
            }
            let reads: Vec<usize> =
                inputs.iter().enumerate().filter(|(_, v)| at.is_activation(**v)).map(|(slot, _)| slot).collect();
            let kernel = match name {
                "Add" => "QLinearAdd",
                "Mul" => "QLinearMul",
                _ => "QLinearConcat",
            };
            if reads.is_empty() { Err(Skip::NoMatch) } else { Ok((Role::Kernel(kernel), reads)) }
        }
        ("", "GlobalAveragePool") => first(Role::Kernel("QLinearGlobalAveragePool")),
        ("", "AveragePool") => first(Role::Kernel("QLinearAveragePool")),
        ("", "Sigmoid") if is_cpu => first(Role::Kernel("QLinearSigmoid")),
        ("", "LeakyRelu") if is_cpu => first(Role::Kernel("QLinearLeakyRelu")),
        ("", "MaxPool") if at.opset >= 12 => first(Role::Passes),
        (
            "",
            "Reshape" | "Flatten" | "Transpose" | "Squeeze" | "Unsqueeze" | "Slice" | "Gather" | "Expand" | "Tile",
        ) => first(Role::Passes),
        ("", "DepthToSpace") if is_cpu => first(Role::Passes),
        ("", "Resize") if node.attrs.str("mode").is_none_or(|m| m == "nearest") => first(Role::Passes),
        ("", "HardSigmoid") if is_cpu => {
            let (alpha, beta) = (node.attrs.float("alpha").unwrap_or(0.2), node.attrs.float("beta").unwrap_or(0.5));
            match alpha > 0.0 && alpha.is_finite() && beta > 0.0 && beta.is_finite() {
                true => first(Role::HardGate { alpha, beta }),
                false => Err(Skip::NoMatch),
            }
        }
        ("", "HardSwish") if is_cpu => first(Role::SelfGated(Gate::Hard)),
        ("com.microsoft", "QuickGelu") if is_cpu => {
            let alpha = node.attrs.float("alpha").unwrap_or(1.702);
            match alpha > 0.0 && alpha.is_finite() {
                true => first(Role::SelfGated(Gate::Sigmoid(alpha))),
                false => Err(Skip::NoMatch),
            }
        }
        _ => Err(Skip::NoMatch),
    }
}

/// True if a sum is read by a rectifier, which the kernel of the sum does at no cost.
fn is_rectified(at: Place<'_>, node: &Node) -> bool {
    let reader = node.output(0).and_then(|v| at.graph.only_user(v)).map(|(_, n, _)| n);
    reader.is_some_and(|n| n.op.is("Relu") || n.op.is("Clip"))
}

/// True if the output has the shape of an input.
fn same_shape(at: Place<'_>, node: &Node, slot: usize) -> bool {
    let shape = |v: Option<ValueId>| at.facts.fact(v?).shape();
    match (shape(node.input(slot)), shape(node.output(0))) {
        (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b): (&Dim, &Dim)| a.same(b)),
        _ => false,
    }
}
