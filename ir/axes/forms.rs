//! Spellings that several operators share.

use super::{Letter, Part, Port, Role, Spelling, Why};
use crate::Dim;

/// Everything broadcasts to every output, as NumPy does. Before opset 7 the attributes `broadcast` and `axis` say how.
pub(crate) fn elementwise(s: &mut Spelling<'_>) -> Result<(), Why> {
    let inputs: Vec<Port> = s.ports().filter(|p| matches!(p, Port::In(_))).collect();
    if s.call.opset < 7 && inputs.len() > 1 && s.call.flag("broadcast", false) {
        return Err("how its operands broadcast is not followed before opset 7");
    }
    let outputs: Vec<Port> = s.ports().filter(|p| matches!(p, Port::Out(_))).collect();
    let rank = s.shape(*outputs.first().ok_or("it has no output")?)?.len();
    aligned(s, &inputs, &outputs, 0..rank, Role::Free)
}

/// Broadcasts the inputs to all outputs, which have one shape, along the axes of a range that counts from the back.
pub(crate) fn aligned(
    s: &mut Spelling<'_>,
    inputs: &[Port],
    outputs: &[Port],
    from_back: std::ops::Range<usize>,
    role: Role,
) -> Result<(), Why> {
    let places = |s: &Spelling<'_>, ports: &[Port], back: usize| {
        let mut places = Vec::with_capacity(ports.len());
        for &port in ports.iter().filter(|&&p| s.has(p)) {
            let at = s.shape(port)?.len().checked_sub(back + 1);
            places.extend(at.map(|at| (port, at)));
        }
        Ok::<_, Why>(places)
    };
    for back in from_back {
        let (inputs, outputs) = (places(s, inputs, back)?, places(s, outputs, back)?);
        s.broadcast(&inputs, &outputs, role)?;
    }
    Ok(())
}

/// The first output is the first input, element by element; other inputs have no axes of their own.
pub(crate) fn like_first(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(Port::In(0))?.len();
    same_axes(s, &[Port::In(0), Port::Out(0)], 0..rank, Role::Free)
}

/// Operands that have one shape, as far as some axes are concerned.
pub(crate) fn same_axes(
    s: &mut Spelling<'_>,
    ports: &[Port],
    axes: impl IntoIterator<Item = usize>,
    role: Role,
) -> Result<(), Why> {
    for axis in axes {
        let places: Vec<(Port, usize)> = ports.iter().map(|&p| (p, axis)).collect();
        s.tie(&places, role)?;
    }
    Ok(())
}

/// Outputs that are made, not computed from anything: any axis may be shorter.
pub(crate) fn free(s: &mut Spelling<'_>) -> Result<(), Why> {
    for port in s.ports().filter(|p| matches!(p, Port::Out(_))) {
        for axis in 0..s.shape(port)?.len() {
            s.tie(&[(port, axis)], Role::Free)?;
        }
    }
    Ok(())
}

/// Input 0 in row-major order under another shape. Axes are split into factors and merged as far as their sizes divide,
/// from the front and from the back; what is left in between stays whole.
pub(crate) fn reshape(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (from, to) = (s.shape(Port::In(0))?, s.shape(Port::Out(0))?);
    if from.iter().chain(to).any(|d| *d == Dim::Known(0)) {
        return Err("it has no elements");
    }
    let mut input = Factors::new(from);
    let mut output = Factors::new(to);
    factor(s, &mut input, &mut output, End::Front);
    factor(s, &mut input, &mut output, End::Back);
    for (side, port) in [(input, Port::In(0)), (output, Port::Out(0))] {
        let open = side.open();
        for axis in 0..side.shape.len() {
            match side.done(axis) {
                Some(part) => s.parts(port, axis, vec![part]),
                None => side.left_over(s, port, axis, &open)?,
            }
        }
    }
    Ok(())
}

const NO_FACTORS: Why = "its sizes do not factor";

/// From which end axes are matched.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Front,
    Back,
}

/// The axes of one side of a reshape: those that are done at the front, and at the back in reverse order.
struct Factors<'a> {
    shape: &'a [Dim],
    front: Vec<Part>,
    back: Vec<Part>,
    /// Of the axes that are being matched at either end: letters so far, and what is left of the size.
    partial: [Option<(Part, Dim)>; 2],
}

impl<'a> Factors<'a> {
    fn new(shape: &'a [Dim]) -> Factors<'a> {
        Factors { shape, front: Vec::new(), back: Vec::new(), partial: [None, None] }
    }

    /// What is left of the next axis; `None` at the end.
    fn rest(&mut self, end: End) -> Option<Dim> {
        if self.front.len() + self.back.len() >= self.shape.len() {
            return None;
        }
        let at = match end {
            End::Front => self.front.len(),
            End::Back => self.shape.len() - 1 - self.back.len(),
        };
        let slot = self.partial.get_mut(usize::from(end == End::Back))?;
        if slot.is_none() {
            *slot = Some((Part::new(), self.shape.get(at)?.clone()));
        }
        slot.as_ref().map(|(_, rest)| rest.clone())
    }

    /// Gives a letter to the next axis, of whose size `rest` is left after it.
    fn take(&mut self, end: End, letter: Option<Letter>, rest: Dim) {
        let slot = usize::from(end == End::Back);
        let Some(Some((part, left))) = self.partial.get_mut(slot) else { return };
        match end {
            End::Front => part.extend(letter),
            End::Back => letter.into_iter().for_each(|l| part.insert(0, l)),
        }
        *left = rest;
        if *left == Dim::Known(1) {
            let part = std::mem::take(part);
            if let Some(p) = self.partial.get_mut(slot) {
                *p = None;
            }
            match end {
                End::Front => self.front.push(part),
                End::Back => self.back.push(part),
            }
        }
    }

    /// Axes that are not matched, or in part only.
    fn open(&self) -> std::ops::Range<usize> {
        self.front.len()..self.shape.len().saturating_sub(self.back.len())
    }

    fn done(&self, axis: usize) -> Option<Part> {
        let from_back = || self.back.get(self.shape.len().checked_sub(axis + 1)?);
        self.front.get(axis).or_else(from_back).cloned()
    }

    /// Spells an axis that was matched in part or not at all: factors that were found are tied, the rest stays whole.
    fn left_over(
        &self,
        s: &mut Spelling<'_>,
        port: Port,
        axis: usize,
        open: &std::ops::Range<usize>,
    ) -> Result<(), Why> {
        let [front, back] = &self.partial;
        let front = front.as_ref().filter(|_| axis == open.start);
        let back = back.as_ref().filter(|_| axis + 1 == open.end);
        match (front, back) {
            (Some((part, rest)), None) => {
                let rest = s.letter(rest.clone(), Role::Whole(NO_FACTORS));
                s.spell(port, axis, &[part.as_slice(), &[rest]].concat());
            }
            (None, Some((part, rest))) => {
                let rest = s.letter(rest.clone(), Role::Whole(NO_FACTORS));
                s.spell(port, axis, &[&[rest], part.as_slice()].concat());
            }
            (None, None) => s.whole(port, axis, NO_FACTORS)?,
            (Some((outer, _)), Some((inner, _))) => {
                outer.iter().chain(inner).for_each(|&l| s.keep(l, NO_FACTORS));
                s.whole(port, axis, NO_FACTORS)?;
            }
        }
        Ok(())
    }
}

fn factor(s: &mut Spelling<'_>, input: &mut Factors<'_>, output: &mut Factors<'_>, end: End) {
    loop {
        let (a, b) = match (input.rest(end), output.rest(end)) {
            (Some(a), Some(b)) => (a, b),
            // Axes of size 1 may be left on one side.
            (Some(Dim::Known(1)), None) => {
                input.take(end, None, Dim::Known(1));
                continue;
            }
            (None, Some(Dim::Known(1))) => {
                output.take(end, None, Dim::Known(1));
                continue;
            }
            _ => return,
        };
        if a == Dim::Known(1) {
            input.take(end, None, a);
        } else if b == Dim::Known(1) {
            output.take(end, None, b);
        } else if a.same(&b) {
            let letter = s.letter(a, Role::Free);
            input.take(end, Some(letter), Dim::Known(1));
            output.take(end, Some(letter), Dim::Known(1));
        } else if let Some(rest) = a.div_exact(&b) {
            let letter = s.letter(b, Role::Free);
            input.take(end, Some(letter), rest);
            output.take(end, Some(letter), Dim::Known(1));
        } else if let Some(rest) = b.div_exact(&a) {
            let letter = s.letter(a, Role::Free);
            input.take(end, Some(letter), Dim::Known(1));
            output.take(end, Some(letter), rest);
        } else {
            return;
        }
    }
}
