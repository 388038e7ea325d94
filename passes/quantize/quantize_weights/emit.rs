//! The nodes that make numbers of codes, and the constants that they read.

use std::collections::BTreeMap;

use planish_ir::{
    Attrs, DType, Dim, Graph, NodeId, OpName, Patch, Ref, Tensor, TensorError, TensorType, Type, ValueId,
};

use super::{
    forms::{Form, Site, Store},
    sites::{Kind, Product},
};
use crate::quantize::blocks::{Blocks, Sides, move_axis, pack_as, pack_into, pack_len, pack_rows};

/// What all weights have in common.
#[derive(Clone, Copy)]
pub(super) struct Emit<'a> {
    pub(super) graph: &'a Graph,
    /// How `MatMulNBits` may treat its first factor; `None` leaves it to the runtime.
    pub(super) accuracy_level: Option<u32>,
}

/// onnxruntime's own operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

impl Emit<'_> {
    /// Lets the readers of a store read codes.
    pub(super) fn patch(self, store: &Store, blocks: &Blocks, note: String) -> Result<Patch, TensorError> {
        let mut patch = Patch::new(planish_ir::Numerics::Lossy, note);
        let mut constants = Constants { store, blocks, name: self.graph.name_of(store.value), made: BTreeMap::new() };
        let mut whole = None;
        for site in &store.readers {
            match site.form {
                Form::NBits => {
                    for product in site.reader.products(self.graph) {
                        self.n_bits(&mut patch, &mut constants, product)?;
                    }
                }
                Form::Lookup => self.lookup(&mut patch, &mut constants, site)?,
                Form::Planes => self.planes(&mut patch, &mut constants, site)?,
                Form::Channels if matches!(site.reader.kind, Kind::Rows | Kind::Entries) => {
                    self.rows(&mut patch, &mut constants, site)?;
                }
                Form::Blocked | Form::Channels => {
                    let is_table = store.readers.iter().any(|s| s.reader.kind == Kind::Rows);
                    // One node for each reader: runtimes fuse it with the reader, and only if that is the only one. What is not
                    // fused anyway is widened once.
                    let widened = match whole.filter(|_| is_table) {
                        Some(widened) => widened,
                        None => self.widen(&mut patch, &mut constants)?,
                    };
                    whole = Some(widened);
                    let widened = match site.transposed {
                        true => {
                            let name = format!("{}_transposed", constants.name);
                            patch
                                .node(OpName::onnx("Transpose"), [widened])
                                .attr("perm", vec![1i64, 0])
                                .output(name, None)
                        }
                        false => widened,
                    };
                    patch.set_input(site.reader.node, site.reader.slot, Some(widened));
                }
            }
        }
        Ok(patch)
    }

    fn n_bits(self, patch: &mut Patch, constants: &mut Constants<'_>, product: Product) -> Result<(), TensorError> {
        let Some(node) = self.graph.node(product.node) else { return Ok(()) };
        let bias = if node.op.is("Gemm") { node.input(2) } else { None };
        let inputs = [
            Some(constants.get(patch, Constant::PackedBlocks)?),
            Some(constants.get(patch, Constant::RowScales)?),
            constants.optional(patch, Constant::PackedZeros)?,
            None,
            bias.map(|b| self.vector(patch, b, constants.blocks.rows)),
        ];
        let format = constants.blocks.format;
        let mut attrs = Attrs::new()
            .with("K", constants.blocks.columns as i64)
            .with("N", constants.blocks.rows as i64)
            .with("bits", i64::from(format.bits()))
            .with("block_size", format.block as i64);
        if let Some(level) = self.accuracy_level {
            attrs.set("accuracy_level", i64::from(level).into());
        }
        turn_into(patch, product.node, "MatMulNBits", attrs);
        for (slot, input) in (1..).zip(inputs).filter(|(_, input)| input.is_some()) {
            patch.set_input(product.node, slot, input);
        }
        Ok(())
    }

    /// A bias with one entry for each row; one that is the same for all is spread out.
    fn vector(self, patch: &mut Patch, bias: ValueId, rows: usize) -> Ref {
        let Some(constant) = self.graph.constant(bias) else { return bias.into() };
        if constant.rank() == 1 && constant.elements() == rows as u64 {
            return bias.into();
        }
        let size = (constant.dtype().bits() / 8) as usize;
        let one = constant.raw().and_then(|r| r.get(..size)).unwrap_or_default();
        match Tensor::from_raw(constant.dtype(), [rows as u64].as_slice(), one.repeat(rows).into()) {
            Ok(spread) => patch.constant(self.graph.name_of(bias), spread),
            Err(_) => bias.into(),
        }
    }

    fn lookup(self, patch: &mut Patch, constants: &mut Constants<'_>, site: &Site) -> Result<(), TensorError> {
        let format = constants.blocks.format;
        let shared = constants.store.readers.iter().any(|s| s.form == Form::NBits)
            && constants.blocks.columns.is_multiple_of(format.block);
        let data = match shared {
            // The same bytes under other dims.
            true => {
                let codes = constants.get(patch, Constant::PackedBlocks)?;
                let shape = Tensor::ints(&[constants.blocks.rows as i64, -1]);
                let shape = patch.constant(format!("{}_rows", constants.name), shape);
                let name = format!("{}_table", constants.name);
                patch.node(OpName::onnx("Reshape"), [codes, shape]).output(name, None)
            }
            false => constants.get(patch, Constant::PackedRows)?,
        };
        let attrs = Attrs::new()
            .with("bits", i64::from(format.bits()))
            .with("block_size", format.block as i64)
            .with("gather_axis", 0i64)
            .with("quantize_axis", 1i64);
        let (node, scales) = (site.reader.node, constants.get(patch, Constant::RowScales)?);
        turn_into(patch, node, "GatherBlockQuantized", attrs);
        patch.set_input(node, 0, Some(data));
        patch.set_input(node, 2, Some(scales));
        if let Some(zeros) = constants.optional(patch, Constant::PackedZeros)? {
            patch.set_input(node, 3, Some(zeros));
        }
        Ok(())
    }

    /// Rows of bytes, each of which holds the codes of several columns: those of the first share of a block in the low bits, of
    /// the next share above them, and so on. So the shares only have to be put one after another.
    fn planes(self, patch: &mut Patch, constants: &mut Constants<'_>, site: &Site) -> Result<(), TensorError> {
        let Some((indices, output)) = self.look_up(site) else { return Ok(()) };
        let (name, format) = (self.graph.name_of(output), constants.blocks.format);
        let table = |patch: &mut Patch, data: Ref, what: &str| {
            patch
                .node(OpName::onnx("Gather"), [data, indices.into()])
                .attr("axis", 0i64)
                .output(format!("{name}_{what}"), None)
        };
        let bytes = constants.get(patch, Constant::Planes)?;
        let bytes = table(patch, bytes, "bytes");
        let mask = Tensor::from_raw(DType::U8, [].as_slice(), vec![((1u16 << format.bits()) - 1) as u8].into())?;
        let mask = patch.constant("mask", mask);
        let mut shares = Vec::new();
        for share in 0..8 / format.bits() {
            let last = (share + 1) * format.bits() == 8;
            let mut codes = bytes;
            if share > 0 {
                let by = Tensor::from_raw(DType::U8, [].as_slice(), vec![(share * format.bits()) as u8].into())?;
                let by = patch.constant("shift", by);
                codes = patch
                    .node(OpName::onnx("BitShift"), [codes, by])
                    .attr("direction", "RIGHT")
                    .output(format!("{name}_shifted"), None);
            }
            if !last {
                codes = patch.node(OpName::onnx("BitwiseAnd"), [codes, mask]).output(format!("{name}_share"), None);
            }
            shares.push(codes);
        }
        let codes = match shares.as_slice() {
            [codes] => *codes,
            _ => patch.node(OpName::onnx("Concat"), shares).attr("axis", -1i64).output(format!("{name}_codes"), None),
        };
        let cast = |patch: &mut Patch, value: Ref| {
            let to = i64::from(format.scale.code());
            patch.node(OpName::onnx("Cast"), [value]).attr("to", to).output(format!("{name}_cast"), None)
        };
        let codes = cast(patch, codes);
        let zeros = match format.symmetric {
            true => patch
                .constant("middle", Tensor::from_f64_as(format.scale, [].as_slice(), &[f64::from(format.middle())])?),
            false => {
                let zeros = constants.get(patch, Constant::PlaneZeros)?;
                let zeros = table(patch, zeros, "zero_points");
                cast(patch, zeros)
            }
        };
        let steps = patch.node(OpName::onnx("Sub"), [codes, zeros]).output(format!("{name}_steps"), None);
        let scales = constants.get(patch, Constant::PlaneScales)?;
        let scales = table(patch, scales, "scales");
        let blocks = patch.node(OpName::onnx("Mul"), [steps, scales]).output(format!("{name}_blocks"), None);
        let ty = self.graph.ty(output).cloned();
        let rank = site.rank.unwrap_or(2);
        let shape: Vec<i64> = (1..rank).map(|_| 0).chain([constants.blocks.columns as i64]).collect();
        let shape = patch.constant("shape", Tensor::ints(&shape));
        let made =
            patch.node(OpName::onnx("Reshape"), [blocks, shape]).in_place_of(site.reader.node).output(name.clone(), ty);
        patch.replace(output, made);
        Ok(())
    }

    /// Picks codes and widens those.
    fn rows(self, patch: &mut Patch, constants: &mut Constants<'_>, site: &Site) -> Result<(), TensorError> {
        let Some((_, output)) = self.look_up(site) else { return Ok(()) };
        let grid = [constants.get(patch, Constant::TensorScales)?];
        let zeros = constants.optional(patch, Constant::TensorZeros)?;
        let ty = self.graph.ty(output).cloned();
        let inputs = [output.into()].into_iter().chain(grid).chain(zeros);
        let made = patch
            .node(OpName::onnx("DequantizeLinear"), inputs)
            .attr("axis", -1i64)
            .output(format!("{}_dequantized", self.graph.name_of(output)), ty);
        patch.replace(output, made);
        let codes = constants.get(patch, Constant::TensorCodes)?;
        patch.set_input(site.reader.node, site.reader.slot, Some(codes));
        if let Some(ty) = self.graph.ty(output).and_then(Type::as_tensor) {
            let dtype = constants.blocks.format.dtype();
            patch.set_type(output, Type::Tensor(TensorType { dtype, shape: ty.shape.clone() }));
        }
        Ok(())
    }

    /// The whole weight in front of its readers.
    fn widen(self, patch: &mut Patch, constants: &mut Constants<'_>) -> Result<Ref, TensorError> {
        let (store, format) = (constants.store, constants.blocks.format);
        let grid = [constants.get(patch, Constant::TensorCodes)?, constants.get(patch, Constant::TensorScales)?];
        let zeros = constants.optional(patch, Constant::TensorZeros)?;
        let blocked = constants.per_block();
        let mut attrs = Attrs::new();
        match blocked {
            true => {
                attrs.set("axis", (1 - store.outer.min(1) as i64).into());
                attrs.set("block_size", (format.block as i64).into());
            }
            false => {
                attrs.set("axis", (store.outer as i64).into());
            }
        }
        let ty = Type::tensor(store.tensor.dtype(), store.tensor.dims().iter().map(|&d| Dim::from(d)));
        let inputs = grid.into_iter().chain(zeros);
        let name = format!("{}_dequantized", constants.name);
        Ok(patch.node(OpName::onnx("DequantizeLinear"), inputs).attrs(attrs).output(name, Some(ty)))
    }

    /// Indices and result of a look-up.
    fn look_up(self, site: &Site) -> Option<(ValueId, ValueId)> {
        let node = self.graph.node(site.reader.node)?;
        Some((node.input(1)?, node.output(0)?))
    }
}

/// Makes a node call an operator of onnxruntime's; its operands follow.
fn turn_into(patch: &mut Patch, node: NodeId, op: &str, attrs: Attrs) {
    patch.import(MICROSOFT, 1);
    patch.set_op(node, OpName::new(MICROSOFT, op));
    patch.set_attrs(node, attrs);
}

/// A constant that some form of reading needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Constant {
    /// `[rows, blocks, bytes]`
    PackedBlocks,
    /// `[rows, bytes]`
    PackedRows,
    /// `[rows, blocks]`
    RowScales,
    /// `[rows, bytes]`
    PackedZeros,
    /// The dims of the weight.
    TensorCodes,
    /// The same with blocks instead of columns, or `[rows]`.
    TensorScales,
    TensorZeros,
    /// `[rows, blocks, bytes]`, see [`Emit::planes`].
    Planes,
    /// `[rows, blocks, 1]`
    PlaneScales,
    PlaneZeros,
}

struct Constants<'a> {
    store: &'a Store,
    blocks: &'a Blocks,
    name: String,
    made: BTreeMap<Constant, Ref>,
}

impl Constants<'_> {
    /// Zero points, if there are any.
    fn optional(&mut self, patch: &mut Patch, constant: Constant) -> Result<Option<Ref>, TensorError> {
        if self.blocks.format.symmetric { Ok(None) } else { self.get(patch, constant).map(Some) }
    }

    fn get(&mut self, patch: &mut Patch, constant: Constant) -> Result<Ref, TensorError> {
        if let Some(made) = self.made.get(&constant) {
            return Ok(*made);
        }
        let what = match constant {
            Constant::RowScales | Constant::TensorScales | Constant::PlaneScales => "scale".to_owned(),
            Constant::PackedZeros | Constant::TensorZeros | Constant::PlaneZeros => "zero_point".to_owned(),
            Constant::PackedBlocks | Constant::PackedRows | Constant::Planes => {
                format!("{}bit", self.blocks.format.bits())
            }
            Constant::TensorCodes => self.blocks.format.dtype().name().to_owned(),
        };
        let made = patch.constant(format!("{}_{what}", self.name), self.make(constant)?);
        self.made.insert(constant, made);
        Ok(made)
    }

    /// True if there are several blocks in a row, or the weight is to look as if there were.
    fn per_block(&self) -> bool {
        self.store.readers.iter().any(|s| s.form == Form::Blocked)
    }

    fn make(&self, constant: Constant) -> Result<Tensor, TensorError> {
        let Blocks { format, rows, columns, .. } = *self.blocks;
        let (n, per_row) = (rows as u64, self.blocks.per_row() as u64);
        let sides = Sides::of(&self.store.tensor, self.store.outer);
        match constant {
            Constant::PackedBlocks => self.blocks.packed_blocks(),
            Constant::PackedRows => pack_rows(&self.blocks.codes, rows, columns, format.bits()),
            Constant::RowScales => self.blocks.scales(&[n, per_row]),
            Constant::PackedZeros => self.blocks.packed_zeros(),
            Constant::TensorCodes => {
                let codes = move_axis(self.blocks.codes.clone(), sides, true);
                pack_as(format.dtype(), self.store.tensor.dims(), codes)
            }
            Constant::TensorScales | Constant::TensorZeros => {
                let dims = match (self.per_block(), self.store.outer) {
                    (false, _) => vec![n],
                    (true, 0) => vec![n, per_row],
                    (true, _) => vec![per_row, n],
                };
                let back = Sides { inner: 1, ..sides };
                let outer = if self.per_block() && self.store.outer == 1 { per_row as usize } else { 1 };
                let back = Sides { outer, ..back };
                if constant == Constant::TensorZeros {
                    return pack_as(format.dtype(), &dims, move_axis(self.blocks.zeros(), back, true));
                }
                let scales: Vec<f32> = self.blocks.grids.iter().map(|g| g.scale).collect();
                let scales: Vec<f64> = move_axis(scales, back, true).into_iter().map(f64::from).collect();
                Tensor::from_f64_as(format.scale, dims.as_slice(), &scales)
            }
            Constant::Planes => {
                let (block, shares) = (format.block, (8 / format.bits()) as usize);
                let size = pack_len(block, format.bits());
                let mut bytes = Vec::with_capacity(self.blocks.codes.len() / shares);
                let mut byte = [0u8];
                for block in self.blocks.codes.chunks(block) {
                    for i in 0..size {
                        let codes: Vec<u8> = (0..shares).filter_map(|s| block.get(s * size + i).copied()).collect();
                        pack_into(&codes, format.bits(), &mut byte);
                        bytes.extend(byte);
                    }
                }
                Tensor::from_raw(DType::U8, [n, per_row, size as u64].as_slice(), bytes.into())
            }
            Constant::PlaneScales => self.blocks.scales(&[n, per_row, 1]),
            Constant::PlaneZeros => Tensor::from_raw(DType::U8, [n, per_row, 1].as_slice(), self.blocks.zeros().into()),
        }
    }
}
