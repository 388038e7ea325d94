//! In which form a reader takes its weight, by target.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{DType, Dim, Graph, Node, NodeId, Tensor, ValueId, infer::GraphFacts};

use super::{
    Block, Named, QuantizeWeights,
    sites::{Kind, Product, Reader, Weight},
};
use crate::{Skip, Target, quantize::blocks::Format};

/// How codes become numbers again at a reader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::quantize) enum Form {
    /// `MatMulNBits` in the place of each product.
    NBits,
    /// `GatherBlockQuantized` in the place of a look-up.
    Lookup,
    /// `DequantizeLinear` in front of the reader, with blocks.
    Blocked,
    /// A look-up in packed bytes, taken apart by standard operators.
    Planes,
    /// `DequantizeLinear` with one scale per channel, in front of the reader, or behind it if it picks rows.
    Channels,
}

/// A weight that is stored once, and who reads it in which form.
pub(in crate::quantize) struct Store {
    pub(in crate::quantize) value: ValueId,
    pub(in crate::quantize) tensor: Tensor,
    /// The axis along which the rows of the matrix lie.
    pub(in crate::quantize) outer: usize,
    pub(in crate::quantize) format: Format,
    pub(in crate::quantize) readers: Vec<Site>,
}

impl Store {
    /// The IR version from which on there are types of these bits, if the model's may be older.
    pub(in crate::quantize) fn ir_version(&self) -> Option<i64> {
        let standard = self.readers.iter().any(|s| matches!(s.form, Form::Blocked | Form::Channels));
        match self.format.bits() {
            4 if standard => Some(10),
            2 if standard => Some(13),
            _ => None,
        }
    }
}

/// A reader and its form.
#[derive(Clone, Copy, Debug)]
pub(in crate::quantize) struct Site {
    pub(in crate::quantize) reader: Reader,
    pub(in crate::quantize) form: Form,
    /// What it reads is a copy of the stored matrix with exchanged axes.
    pub(in crate::quantize) transposed: bool,
    /// Of what a look-up gives, if that is known.
    pub(in crate::quantize) rank: Option<usize>,
}

impl Site {
    /// True if the reader multiplies two matrices.
    pub(in crate::quantize) fn is_product(&self) -> bool {
        matches!(self.reader.kind, Kind::Product { .. })
    }
}

/// What the choice depends on.
#[derive(Clone, Copy)]
pub(in crate::quantize) struct Setting<'a> {
    pub(in crate::quantize) graph: &'a Graph,
    pub(in crate::quantize) facts: Option<&'a GraphFacts>,
    pub(in crate::quantize) opset: i64,
    pub(in crate::quantize) target: Target,
    pub(in crate::quantize) config: &'a QuantizeWeights,
    /// Nothing stands in the way of onnxruntime's own operators.
    pub(in crate::quantize) callable: bool,
}

/// From here on `DequantizeLinear` has axes, float16, blocks and 4 bits, 2 bits.
const CHANNELS: i64 = 13;
const FLOAT16: i64 = 19;
const BLOCKS: i64 = 21;
const TWO_BITS: i64 = 25;
/// From here on there is `BitwiseAnd`.
const BITWISE: i64 = 18;

impl Setting<'_> {
    /// True if weights in blocks are for onnxruntime's operators, which know no scales per channel.
    fn has_own_operators(&self) -> bool {
        let onnxruntime = matches!(self.target, Target::OnnxruntimeCpu | Target::OnnxruntimeGpu);
        onnxruntime && self.callable && self.config.block != Block::Named(Named::None)
    }

    /// The form of a reader, the axis of the rows, and what the codes look like.
    pub(in crate::quantize) fn form(&self, weight: &Weight, reader: &Reader) -> Result<(Form, usize, Format), Skip> {
        let (bits, rank) = (self.config.bits, weight.tensor.rank());
        let size = |axis: usize| weight.tensor.dims().get(axis).map_or(0, |&d| d as usize);
        match reader.kind {
            Kind::Product { outer } => {
                let columns = size(1 - outer.min(1));
                if self.has_own_operators()
                    && reader.products(self.graph).iter().all(|p| self.takes_n_bits(p, size(outer)))
                {
                    // Blocks of fewer than 16 are not taken.
                    return Ok((Form::NBits, outer, self.blocked(weight, columns, 16)));
                }
                match (bits, self.config.block) {
                    (8, Block::Named(_)) => self.channels(weight, outer),
                    _ => self.dequantized(weight, outer, columns),
                }
            }
            Kind::Channels { outer } => self.channels(weight, outer),
            // A row of bytes has no loose end.
            Kind::Rows if self.has_own_operators() && (size(1) * bits as usize).is_multiple_of(8) => {
                Ok((Form::Lookup, 0, self.blocked(weight, size(1), 16)))
            }
            Kind::Rows | Kind::Entries if self.target == Target::Tensorrt => Err(Skip::because(
                "TensorRT dequantizes constants only, and would widen the whole table for a few rows",
            )),
            Kind::Rows if bits < 8 || !matches!(self.config.block, Block::Named(_)) => {
                let format = self.blocked(weight, size(1), 8);
                let planes = 8 / format.bits() as usize;
                let fits = size(1).is_multiple_of(format.block) && format.block.is_multiple_of(planes);
                let rank_known = self.rank_of_rows(reader.node).is_some();
                match self.opset >= BITWISE && fits && rank_known {
                    true => Ok((Form::Planes, 0, format)),
                    false => self.channels(weight, rank - 1),
                }
            }
            Kind::Rows | Kind::Entries => self.channels(weight, rank - 1),
        }
    }

    /// Rank of what a look-up gives.
    pub(in crate::quantize) fn rank_of_rows(&self, node: NodeId) -> Option<usize> {
        let output = self.graph.node(node)?.output(0)?;
        self.facts?.ty(output)?.shape().map(<[Dim]>::len)
    }

    fn blocked(&self, weight: &Weight, columns: usize, least: usize) -> Format {
        let block = match (self.config.block, self.target, self.config.bits) {
            (Block::Size(n), ..) => n as usize,
            (_, Target::Tensorrt, _) | (_, _, 8) => 128,
            (Block::Named(_), ..) => 32,
        };
        let block = match (self.target, self.config.block) {
            (Target::Tensorrt, Block::Named(_)) if !columns.is_multiple_of(block) => 64,
            (Target::Tensorrt, _) => block,
            // A longer one would be padding, and so is what the last one lacks, if a shorter one would fit.
            (_, Block::Named(_)) => {
                let fits = [block, block / 2, block / 4].into_iter().find(|&b| b >= 32 && columns.is_multiple_of(b));
                fits.unwrap_or(block).min(columns.next_power_of_two()).max(least)
            }
            (_, Block::Size(_)) => block.min(columns.next_power_of_two()).max(least),
        };
        let symmetric = self.config.symmetric.unwrap_or(self.target == Target::Tensorrt || self.config.bits == 8);
        Format { levels: 1 << self.config.bits, block, symmetric, scale: weight.tensor.dtype() }
    }

    fn dequantized(&self, weight: &Weight, outer: usize, columns: usize) -> Result<(Form, usize, Format), Skip> {
        let name = || self.graph.name_of(weight.value);
        let needed = if self.config.bits == 2 { TWO_BITS } else { BLOCKS };
        if self.opset < needed {
            return Err(Skip::because(format!(
                "{:?}: the model has opset {}, and {} bits in blocks need {needed}; run `raise-opset` first",
                name(),
                self.opset,
                self.config.bits
            )));
        }
        let mut format = self.blocked(weight, columns, 1);
        if self.config.block == Block::Named(Named::None) {
            format.block = columns.max(1);
            return Ok((Form::Channels, outer, format));
        }
        let last = weight.tensor.dims().last().copied().unwrap_or(0);
        // onnxruntime 1.32 turns them into a MatMulNBits, and gets it wrong.
        if self.config.bits == 2 && last % 4 != 0 {
            return Err(Skip::because(format!(
                "{:?} has rows of {last}, and onnxruntime misreads 2 bits in rows that begin within a byte",
                name()
            )));
        }
        if self.target == Target::Tensorrt && (!columns.is_multiple_of(format.block) || last % 2 == 1) {
            return Err(Skip::because(format!(
                "{:?} has {columns} columns in rows of {last}, and TensorRT takes whole blocks of {} in rows of even length",
                name(),
                format.block
            )));
        }
        Ok((Form::Blocked, outer, format))
    }

    fn channels(&self, weight: &Weight, outer: usize) -> Result<(Form, usize, Format), Skip> {
        let name = || self.graph.name_of(weight.value);
        if self.opset < CHANNELS {
            return Err(Skip::because(format!(
                "{:?}: the model has opset {}, and scales per channel need {CHANNELS}; run `raise-opset` first",
                name(),
                self.opset
            )));
        }
        if weight.tensor.dtype() == DType::F16 && self.opset < FLOAT16 {
            return Err(Skip::because(format!(
                "{:?} is float16, which DequantizeLinear makes from opset {FLOAT16} on",
                name()
            )));
        }
        let rows = weight.tensor.dims().get(outer).map_or(1, |&d| d as usize).max(1);
        let block = (weight.tensor.elements() as usize / rows).max(1);
        let symmetric = self.config.symmetric.unwrap_or(true);
        Ok((Form::Channels, outer, Format { levels: 256, block, symmetric, scale: weight.tensor.dtype() }))
    }

    /// True if a product can be a `MatMulNBits`: the weight comes second, and the first factor is not transposed.
    fn takes_n_bits(&self, product: &Product, rows: usize) -> bool {
        let Some(node) = self.graph.node(product.node).filter(|_| product.slot == 1) else { return false };
        match node.op.name.as_str() {
            "MatMul" => self.rank(node, 0).is_some_and(|r| r >= 2),
            "Gemm" => {
                let one = |name: &str| node.attrs.float(name).unwrap_or(1.0) == 1.0;
                let bias = node.input(2).is_none_or(|b| self.is_vector(b, rows as u64));
                one("alpha") && one("beta") && node.attrs.int("transA").unwrap_or(0) == 0 && bias
            }
            _ => false,
        }
    }

    fn rank(&self, node: &Node, slot: usize) -> Option<usize> {
        self.facts?.ty(node.input(slot)?)?.shape().map(<[Dim]>::len)
    }

    /// True if a bias is one number for each row, or can be made so.
    fn is_vector(&self, bias: ValueId, rows: u64) -> bool {
        match self.graph.constant(bias) {
            Some(t) => t.rank() <= 1 && (t.elements() == rows || t.elements() == 1),
            None => self.facts.and_then(|f| f.ty(bias)?.shape()).is_some_and(|s| s == [Dim::from(rows)]),
        }
    }

    /// How the weights of a graph are stored. `repeats` says which weights are copies of others.
    pub(in crate::quantize) fn stores(
        &self,
        weights: Vec<Weight>,
        repeats: &BTreeMap<usize, usize>,
    ) -> (Vec<Store>, Vec<(NodeId, Skip)>) {
        let mut refused = Vec::new();
        let mut claimed = BTreeSet::new();
        let mut stores: Vec<(usize, Store)> = Vec::new();
        let copies = |n: usize| repeats.get(&n).copied();
        // Tables first, so that their copies find them.
        let (copied, first): (Vec<_>, Vec<_>) =
            weights.into_iter().enumerate().partition(|(n, _)| copies(*n).is_some());
        for (n, weight) in first.into_iter().chain(copied) {
            let forms: Result<Vec<_>, Skip> = weight.readers.iter().map(|r| self.form(&weight, r)).collect();
            let mut forms = match forms {
                Ok(forms) => forms,
                Err(skip) => {
                    refused.extend(weight.readers.iter().map(|r| (r.node, skip.clone())));
                    continue;
                }
            };
            let nodes: Vec<NodeId> =
                weight.readers.iter().flat_map(|r| r.products(self.graph)).map(|p| p.node).collect();
            let mut distinct = nodes.clone();
            distinct.sort_unstable();
            distinct.dedup();
            if distinct.len() < nodes.len() || nodes.iter().any(|node| claimed.contains(node)) {
                let skip = Skip::because(format!("{:?}: both factors are weights", self.graph.name_of(weight.value)));
                refused.extend(weight.readers.iter().map(|r| (r.node, skip.clone())));
                continue;
            }
            claimed.extend(nodes);
            merge(&weight, &mut forms);
            for (&reader, (form, outer, format)) in weight.readers.iter().zip(forms) {
                let original = copies(n)
                    .and_then(|of| stores.iter_mut().find(|(m, s)| *m == of && s.outer == 0 && s.format == format));
                if let Some((_, store)) = original {
                    store.readers.push(Site { reader, form, transposed: outer == 1, rank: None });
                    continue;
                }
                let known = stores.iter_mut().find(|(m, s)| *m == n && s.outer == outer && s.format == format);
                let entry = Site { reader, form, transposed: false, rank: self.rank_of_rows(reader.node) };
                match known {
                    Some((_, store)) => store.readers.push(entry),
                    None => stores.push((
                        n,
                        Store {
                            value: weight.value,
                            tensor: weight.tensor.clone(),
                            outer,
                            format,
                            readers: vec![entry],
                        },
                    )),
                }
            }
        }
        for (_, store) in &mut stores {
            // Who has to widen the whole table for a product may as well look it up there.
            if store.readers.iter().any(|u| u.form == Form::Blocked) {
                store.readers.iter_mut().filter(|u| u.form == Form::Planes).for_each(|u| u.form = Form::Blocked);
            }
        }
        (stores.into_iter().map(|(_, s)| s).collect(), refused)
    }
}

/// A table of words that also turns states into words, as in language models, is most of the model: it is stored once.
/// With one scale per channel the look-up has no choice of the axis, and any other reader can have its scales along any.
fn merge(weight: &Weight, forms: &mut [(Form, usize, Format)]) {
    let picks = |r: &Reader| matches!(r.kind, Kind::Rows | Kind::Entries);
    let picked = weight.readers.iter().zip(&*forms).find(|(r, f)| picks(r) && f.0 == Form::Channels).map(|(_, f)| *f);
    if let Some(picked) = picked {
        forms.iter_mut().filter(|f| f.0 == Form::Channels && f.2.levels == picked.2.levels).for_each(|f| *f = picked);
    }
}
