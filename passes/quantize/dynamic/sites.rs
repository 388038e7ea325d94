//! Which products are quantized, and why others are not.

use planish_ir::{DType, Graph, Model, Node, NodeId, Operand, Tensor, Use, ValueId, infer::GraphFacts};

use super::{
    QuantizeDynamic,
    windows::{self, Windows},
};
use crate::{Skip, Target};

/// A product with a constant right factor.
pub(super) struct Site {
    pub(super) node: NodeId,
    pub(super) activation: ValueId,
    pub(super) weight: ValueId,
    pub(super) tensor: Tensor,
    /// The weight is `[N, K]`.
    pub(super) transposed: bool,
    /// What the product is multiplied by.
    pub(super) alpha: f32,
    pub(super) bias: Option<Bias>,
    /// What the product gives.
    pub(super) product: ValueId,
    /// What the quantized product stands for: the same, or what a bias was added to.
    pub(super) output: ValueId,
    /// A Sum that adds more than the bias, and the rest of its operands.
    pub(super) sum: Option<(NodeId, Vec<ValueId>)>,
    pub(super) form: Form,
}

impl Site {
    /// Every value that its quantized form reads.
    pub(super) fn reads(&self) -> impl Iterator<Item = ValueId> + '_ {
        let scores = match self.form {
            Form::Attention { scores } => scores,
            Form::Product | Form::Windows(_) => None,
        };
        let bias = match self.bias {
            Some(Bias::Value(v)) => Some(v),
            Some(Bias::Constant(_)) | None => None,
        };
        let rest = self.sum.iter().flat_map(|(_, rest)| rest.iter().copied());
        [self.activation, self.weight].into_iter().chain(rest).chain(scores).chain(bias)
    }
}

/// What is added to each row.
#[derive(Clone)]
pub(super) enum Bias {
    /// A vector with one element for each column.
    Value(ValueId),
    /// The same, made anew.
    Constant(Tensor),
}

pub(super) enum Form {
    Product,
    /// A convolution.
    Windows(Windows),
    /// Queries, keys and values side by side, and a value that is added to the scores.
    Attention {
        scores: Option<ValueId>,
    },
}

/// What was refused, and why.
type Refused = Vec<(NodeId, Skip)>;

/// The products of a graph that can be quantized, in topological order.
pub(super) fn find(
    graph: &Graph,
    facts: &GraphFacts,
    model: &Model,
    target: Target,
    config: &QuantizeDynamic,
) -> (Vec<Site>, Refused) {
    let search = Search { graph, facts, target, opset: model.opset(), config };
    let (mut sites, mut refused) = (Vec::new(), Vec::new());
    // A product that reads another one's result comes behind it. A verified graph has no cycle.
    for id in graph.topological_order().unwrap_or_default() {
        let Some(node) = graph.node(id) else { continue };
        match search.site(id, node) {
            Ok(site) => sites.push(site),
            Err(Skip::NoMatch) => {}
            Err(skip) => refused.push((id, skip)),
        }
    }
    // Both forms of a weight would be stored.
    let chosen: std::collections::BTreeSet<NodeId> = sites.iter().map(|s| s.node).collect();
    let (kept, shared): (Vec<Site>, Vec<Site>) = sites.into_iter().partition(|s| {
        graph.users(s.weight).all(|u| matches!(u, Use::Node(n, Operand::Input(1)) if chosen.contains(&n)))
    });
    for site in shared {
        let reason = format!(
            "the weight {:?} is read elsewhere too, so that both forms would be stored",
            graph.name_of(site.weight)
        );
        refused.push((site.node, Skip::because(reason)));
    }
    refused.sort_by_key(|(id, _)| *id);
    (in_order(kept), refused)
}

/// What is added beside a bias has to be there before the product; where another product gives it later, the Sum stays.
fn in_order(mut sites: Vec<Site>) -> Vec<Site> {
    let made: std::collections::BTreeMap<ValueId, usize> =
        sites.iter().enumerate().map(|(i, s)| (s.output, i)).collect();
    for (i, site) in sites.iter_mut().enumerate() {
        let later = |v: &ValueId| made.get(v).is_some_and(|&j| j >= i);
        if site.sum.as_ref().is_some_and(|(_, rest)| rest.iter().any(later)) {
            site.sum = None;
            site.bias = None;
            site.output = site.product;
        }
    }
    sites
}

struct Search<'a> {
    graph: &'a Graph,
    facts: &'a GraphFacts,
    target: Target,
    opset: i64,
    config: &'a QuantizeDynamic,
}

impl Search<'_> {
    fn site(&self, id: NodeId, node: &Node) -> Result<Site, Skip> {
        let form = match (node.op.domain.as_str(), node.op.name.as_str()) {
            _ if node.is_local() => return Err(Skip::NoMatch),
            ("", "MatMul" | "Gemm") => Form::Product,
            ("com.microsoft", "Attention") if self.target == Target::OnnxruntimeCpu => self.attention(node)?,
            ("", "Conv") => return self.convolution(id, node),
            ("", "LSTM" | "GRU" | "RNN") => return Err(self.left(node)),
            _ => return Err(Skip::NoMatch),
        };
        let (activation, weight) = node.input(0).zip(node.input(1)).ok_or(Skip::NoMatch)?;
        let output = node.output(0).ok_or(Skip::NoMatch)?;
        // Products of two activations are of no concern.
        let tensor = self.graph.constant(weight).ok_or(Skip::NoMatch)?;
        if tensor.rank() != 2 || tensor.elements() < self.config.min_elements {
            return Err(Skip::NoMatch);
        }
        self.check_excluded(node, weight, output)?;
        if tensor.dtype() != DType::F32 || self.facts.fact(activation).dtype() != Some(DType::F32) {
            return Err(Skip::because("its factors are not known to be float32, which alone is quantized dynamically"));
        }
        if self.facts.fact(activation).shape().is_none_or(|s| s.len() < 2) {
            return Err(Skip::because("the rank of its left factor is not known, or below 2"));
        }
        let mut site = Site {
            node: id,
            activation,
            weight,
            tensor: tensor.clone(),
            transposed: false,
            alpha: 1.0,
            bias: None,
            product: output,
            output,
            sum: None,
            form,
        };
        match (&site.form, node.op.name.as_str()) {
            (Form::Attention { .. }, _) => site.bias = node.input(2).map(Bias::Value),
            (Form::Product, "Gemm") => self.gemm(node, &mut site)?,
            (_, _) => self.bias_behind(&mut site),
        }
        Ok(site)
    }

    fn check_excluded(&self, node: &Node, weight: ValueId, output: ValueId) -> Result<(), Skip> {
        let names = [node.name.clone(), self.graph.name_of(weight), self.graph.name_of(output)];
        match names.iter().any(|n| self.config.exclude.contains(n)) {
            true => Err(Skip::because("it is excluded by the configuration")),
            false => Ok(()),
        }
    }

    /// A convolution that a product is faster than.
    fn convolution(&self, id: NodeId, node: &Node) -> Result<Site, Skip> {
        let (activation, weight) = node.input(0).zip(node.input(1)).ok_or(Skip::NoMatch)?;
        let output = node.output(0).ok_or(Skip::NoMatch)?;
        let tensor = self.graph.constant(weight).ok_or(Skip::NoMatch)?;
        if tensor.elements() < self.config.min_elements.max(1) {
            return Err(Skip::NoMatch);
        }
        self.check_excluded(node, weight, output)?;
        let input = self.facts.fact(activation);
        let floats = tensor.dtype() == DType::F32 && input.dtype() == Some(DType::F32);
        if self.target != Target::OnnxruntimeCpu || self.opset < 13 || !floats {
            return Err(windows::stays());
        }
        let (windows, tensor) = windows::read(node, input, tensor).ok_or_else(windows::stays)?;
        let fits = |b: ValueId| self.facts.fact(b).shape().is_some_and(|s| s.len() == 1);
        let bias = node.input(2);
        if !bias.is_none_or(fits) {
            return Err(Skip::because("its bias is not known to be a vector"));
        }
        Ok(Site {
            node: id,
            activation,
            weight,
            tensor,
            transposed: false,
            alpha: 1.0,
            bias: bias.map(Bias::Value),
            product: output,
            output,
            sum: None,
            form: Form::Windows(windows),
        })
    }

    /// Why an operator with weights that is no matrix product stays; nothing to say if it has none.
    fn left(&self, node: &Node) -> Skip {
        let large = node
            .input(1)
            .and_then(|w| self.graph.constant(w))
            .is_some_and(|w| w.elements() >= self.config.min_elements);
        match large {
            true => Skip::because(
                "a recurrent layer would quantize its state anew at every step, and its error would add up",
            ),
            false => Skip::NoMatch,
        }
    }

    fn gemm(&self, node: &Node, site: &mut Site) -> Result<(), Skip> {
        let flag = |name: &str| node.attrs.int(name).unwrap_or(0) != 0;
        if flag("transA") {
            return Err(Skip::because("its left factor is transposed; `fuse` brings it into order where it can"));
        }
        site.transposed = flag("transB");
        site.alpha = node.attrs.float("alpha").unwrap_or(1.0);
        let Some(bias) = node.input(2) else { return Ok(()) };
        let beta = node.attrs.float("beta").unwrap_or(1.0);
        let columns = site.tensor.dims().get(usize::from(!site.transposed)).copied().unwrap_or(0);
        let tensor = self
            .graph
            .constant(bias)
            .filter(|t| t.dtype() == DType::F32 && matches!(t.dims(), [n] | [1, n] if *n == columns));
        let Some(tensor) = tensor else {
            return Err(Skip::because("its summand is no constant with one float for each column"));
        };
        site.bias = Some(match beta == 1.0 && tensor.rank() == 1 {
            true => Bias::Value(bias),
            false => {
                let scaled = |values: Vec<f32>| Tensor::from_f32([columns].as_slice(), &values);
                let values = tensor.iter_f32().map(|v| v.map(|v| v * beta).collect());
                Bias::Constant(values.and_then(scaled).map_err(|e| Skip::because(e.to_string()))?)
            }
        });
        Ok(())
    }

    /// A constant with one element for each column that the only reader adds.
    fn bias_behind(&self, site: &mut Site) {
        if self.target != Target::OnnxruntimeCpu {
            return;
        }
        let Some((id, add, slot)) = self.graph.only_user(site.output) else { return };
        let Some(sum) = add.output(0).filter(|_| (add.op.is("Add") || add.op.is("Sum")) && !add.is_local()) else {
            return;
        };
        let columns = site.tensor.dims().get(1).copied();
        let fits = |v: ValueId| {
            self.graph
                .constant(v)
                .is_some_and(|t| t.dtype() == DType::F32 && t.rank() == 1 && t.dims().first().copied() == columns)
        };
        let others = add.inputs().iter().enumerate().filter(|(i, _)| *i != slot).filter_map(|(_, v)| *v);
        let (biases, rest): (Vec<ValueId>, Vec<ValueId>) = others.partition(|&v| fits(v));
        // Another product among them is joined from its own side, or not at all.
        let is_product = |v: &ValueId| {
            self.graph.producer(*v).is_some_and(|(_, n)| ["MatMul", "Gemm", "Attention"].contains(&n.op.name.as_str()))
        };
        if let [bias] = biases.as_slice()
            && self.opset >= 8
            && !rest.iter().any(is_product)
        {
            site.bias = Some(Bias::Value(*bias));
            site.output = sum;
            site.sum = (!rest.is_empty()).then_some((id, rest));
        }
    }

    /// The form that is computed from one projection. Mask, past and other sizes are further inputs and attributes.
    fn attention(&self, node: &Node) -> Result<Form, Skip> {
        const KNOWN: &[&str] = &["num_heads", "scale", "unidirectional"];
        let other = node.attrs.iter().map(|(name, _)| name).find(|name| !KNOWN.contains(name));
        let slot = [3, 4, 6].into_iter().find(|&slot| node.input(slot).is_some());
        if self.opset < 13 {
            return Err(Skip::because("Split takes its sizes as an input from opset 13 on only"));
        }
        if other.is_some() || slot.is_some() || node.output(1).is_some() {
            return Err(Skip::because("its mask, past or attributes have no counterpart in MultiHeadAttention"));
        }
        Ok(Form::Attention { scores: node.input(5) })
    }
}
