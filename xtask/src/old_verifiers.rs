//! Finds in built kernel programs what verifiers of some kernels refuse though it is right: an address that comes from adding
//! a large constant. `meshhold/build.rs` includes this file too, so a build with such a program fails.
//!
//! Linux 6.11 to 6.18.15 (and 6.12 before .107) keep the constant of `r += constant` with the register, forget to drop it
//! when the register is multiplied, shifted or masked, and take it for an offset once the result is added to a pointer:
//! "pointer offset 668265263 is not allowed". No other kernel shows that, the developer's neither. Must use std only.

use std::collections::BTreeSet;

/// Smaller constants are offsets in headers and structures. (Those verifiers refuse from 2^29 on.)
const LARGE: u64 = 1 << 16;

const INSTRUCTION: usize = 8;
const REGISTERS: u8 = 11;
const FRAME: u8 = 10;

// Classes and operations of linux/bpf_common.h and linux/bpf.h.
const LDX: u8 = 1;
const ST: u8 = 2;
const STX: u8 = 3;
const ALU: u8 = 4;
const JMP: u8 = 5;
const JMP32: u8 = 6;
const ALU64: u8 = 7;
const BY_REGISTER: u8 = 0x08;
const ADD: u8 = 0x00;
const SUB: u8 = 0x10;
const NEG: u8 = 0x80;
const MOV: u8 = 0xb0;
const END: u8 = 0xd0;
const LDDW: u8 = 0x18;
const JA: u8 = 0x05;
const JA32: u8 = 0x06;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// Sections with programs whose addresses are made so, each with the numbers of the instructions that use them.
///
/// # Errors
/// A sentence where it is no object of programs.
pub(crate) fn find(object: &[u8]) -> Result<Vec<(String, Vec<usize>)>, String> {
    let sections = code(object).ok_or("this is not an object of BPF programs")?;
    let found = sections.into_iter().map(|(name, bytes)| (name, addresses(bytes)));
    Ok(found.filter(|(_, places)| !places.is_empty()).collect())
}

/// What is known before an instruction: registers and places on the stack, one bit each.
#[derive(Clone, Copy, Default, PartialEq)]
struct State {
    /// Computed from a sum with a large constant.
    made: u16,
    /// Holds a large constant.
    large: u16,
    /// Eight bytes of the stack that hold what is in `made`.
    stack: u64,
}

#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    to: u8,
    from: u8,
    offset: i16,
    number: i32,
}

/// The instructions that read or write at such an address.
fn addresses(bytes: &[u8]) -> Vec<usize> {
    let program: Vec<Instruction> = bytes.chunks_exact(INSTRUCTION).map(Instruction::new).collect();
    let mut before = vec![State::default(); program.len()];
    let mut found = BTreeSet::new();
    let mut changed = true;
    while changed {
        changed = false;
        let mut second_half = false;
        for (at, instruction) in program.iter().enumerate() {
            if std::mem::take(&mut second_half) {
                continue;
            }
            second_half = instruction.code == LDDW;
            let mut after = before[at];
            if after.apply(*instruction, program.get(at + 1).map_or(0, |next| next.number)) {
                found.insert(at);
            }
            for next in instruction.next(at).into_iter().flatten() {
                if let Some(known) = before.get_mut(next) {
                    let joined = known.join(after);
                    changed |= joined != *known;
                    *known = joined;
                }
            }
        }
    }
    found.into_iter().collect()
}

impl State {
    fn join(self, other: Self) -> Self {
        Self {
            made: self.made | other.made,
            large: self.large | other.large,
            stack: self.stack | other.stack,
        }
    }

    fn is_made(self, register: u8) -> bool {
        self.made & bit(register) != 0
    }

    fn set(&mut self, register: u8, made: bool, large: bool) {
        self.made = if made { self.made | bit(register) } else { self.made & !bit(register) };
        self.large = if large { self.large | bit(register) } else { self.large & !bit(register) };
    }

    /// True where the instruction uses such an address.
    fn apply(&mut self, instruction: Instruction, upper: i32) -> bool {
        let Instruction { code, to, from, offset, number } = instruction;
        match code & 0x07 {
            ALU | ALU64 => self.compute(instruction),
            LDX => {
                let used = self.is_made(from);
                let kept = from == FRAME && self.stack & place(offset) != 0;
                self.set(to, kept, false);
                return used;
            }
            ST | STX => {
                if to == FRAME {
                    let made = code & 0x07 == STX && self.is_made(from);
                    self.stack = if made { self.stack | place(offset) } else { self.stack & !place(offset) };
                }
                return self.is_made(to);
            }
            _ if code == LDDW => {
                let constant = u64::from(number.cast_unsigned()) | u64::from(upper.cast_unsigned()) << 32;
                self.set(to, false, from == 0 && is_large(constant.cast_signed()));
            }
            _ if code == CALL => (0..6).for_each(|register| self.set(register, false, false)),
            _ => {}
        }
        false
    }

    fn compute(&mut self, Instruction { code, to, from, number, .. }: Instruction) {
        let by_register = code & BY_REGISTER != 0;
        match (code & 0xf0, by_register) {
            (MOV, true) => self.set(to, self.is_made(from), self.large & bit(from) != 0),
            (MOV, false) => self.set(to, false, is_large(number.into())),
            (NEG | END, _) => {}
            (operation, _) => {
                let constant =
                    if by_register { self.large & bit(from) != 0 } else { is_large(number.into()) };
                let sum = matches!(operation, ADD | SUB) && constant;
                let made = self.is_made(to) || sum || by_register && self.is_made(from);
                self.set(to, made, false);
            }
        }
    }
}

impl Instruction {
    fn new(bytes: &[u8]) -> Self {
        let at = |place: usize| bytes.get(place).copied().unwrap_or_default();
        Self {
            code: at(0),
            to: (at(1) & 0x0f).min(REGISTERS - 1),
            from: (at(1) >> 4).min(REGISTERS - 1),
            offset: i16::from_le_bytes([at(2), at(3)]),
            number: i32::from_le_bytes([at(4), at(5), at(6), at(7)]),
        }
    }

    /// Where it goes on.
    fn next(self, at: usize) -> [Option<usize>; 2] {
        let jump = |distance: isize| at.checked_add_signed(distance + 1);
        match self.code {
            EXIT => [None, None],
            JA => [jump(self.offset.into()), None],
            JA32 => [jump(self.number as isize), None],
            LDDW => [Some(at + 2), None],
            code if matches!(code & 0x07, JMP | JMP32) && code != CALL => {
                [Some(at + 1), jump(self.offset.into())]
            }
            _ => [Some(at + 1), None],
        }
    }
}

fn bit(register: u8) -> u16 {
    1 << register
}

fn place(offset: i16) -> u64 {
    1 << ((-(i32::from(offset)) + 7) / 8).clamp(0, 63)
}

fn is_large(constant: i64) -> bool {
    constant.unsigned_abs() >= LARGE
}

/// Names and contents of the sections with code, of a little-endian ELF64 file.
fn code(object: &[u8]) -> Option<Vec<(String, &[u8])>> {
    const EXECUTABLE: u64 = 4;
    if object.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let word = |at: usize| Some(u64::from_le_bytes(object.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(object.get(at..at + 2)?.try_into().ok()?)));
    let (start, size, count, names) = (word(0x28)? as usize, half(0x3a)?, half(0x3c)?, half(0x3e)?);
    let content = |index: usize| {
        let header = start + index * size;
        let (offset, length) = (word(header + 24)? as usize, word(header + 32)? as usize);
        object.get(offset..offset + length)
    };
    let names = content(names)?;
    let mut sections = Vec::new();
    for index in 0..count {
        let header = start + index * size;
        if word(header + 8)? & EXECUTABLE == 0 {
            continue;
        }
        let name = names.get((word(header)? & 0xffff_ffff) as usize..)?.split(|byte| *byte == 0).next()?;
        sections.push((String::from_utf8_lossy(name).into_owned(), content(index)?));
    }
    Some(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> [u8; INSTRUCTION] {
        let ([a, b], [c, d, e, f]) = (offset.to_le_bytes(), number.to_le_bytes());
        [code, from << 4 | to, a, b, c, d, e, f]
    }

    /// A word of the packet, changed, becomes an index into what `r0` points to.
    fn look_up(change: [u8; INSTRUCTION], detour: &[[u8; INSTRUCTION]]) -> Vec<u8> {
        let mut program = vec![
            instruction(0x61, 2, 6, 0, 0), // r2 = *(u32 *)(r6 + 0)
            change,
            instruction(0x27, 2, 0, 0, 0x1234_5671), // r2 *= …
        ];
        program.extend_from_slice(detour);
        program.extend([
            instruction(0x77, 2, 0, 0, 52), // r2 >>= 52
            instruction(0x0f, 0, 2, 0, 0),  // r0 += r2
            instruction(0x69, 1, 0, 0, 0),  // r1 = *(u16 *)(r0 + 0)
            instruction(EXIT, 0, 0, 0, 0),
        ]);
        program.concat()
    }

    const PLUS: [u8; INSTRUCTION] = [0x07, 2, 0, 0, 0x2f, 0xeb, 0xd4, 0x27];
    const XOR: [u8; INSTRUCTION] = [0xa7, 2, 0, 0, 0x2f, 0xeb, 0xd4, 0x27];
    const PLUS_FOUR: [u8; INSTRUCTION] = [0x07, 2, 0, 0, 4, 0, 0, 0];

    #[test]
    fn a_sum_with_a_constant_must_not_become_an_address() {
        assert_eq!(addresses(&look_up(PLUS, &[])), [5]);
        assert_eq!(addresses(&look_up(XOR, &[])), [] as [usize; 0]);
        assert_eq!(addresses(&look_up(PLUS_FOUR, &[])), [] as [usize; 0], "an offset in a header");
    }

    #[test]
    fn it_is_followed_through_the_stack_copies_and_jumps() {
        let stack = [
            instruction(0x7b, 10, 2, -16, 0),
            instruction(0xb7, 2, 0, 0, 0),
            instruction(0x79, 2, 10, -16, 0),
        ];
        assert_eq!(addresses(&look_up(PLUS, &stack)), [8]);
        let copy =
            [instruction(0xbf, 3, 2, 0, 0), instruction(0xb7, 2, 0, 0, 0), instruction(0x4f, 2, 3, 0, 0)];
        assert_eq!(addresses(&look_up(PLUS, &copy)), [8]);
        let jump = [instruction(0x15, 1, 0, 1, 0), instruction(0xb7, 2, 0, 0, 0)];
        assert_eq!(addresses(&look_up(PLUS, &jump)), [7], "one of two ways is enough");
        let overwritten = [instruction(0xb7, 2, 0, 0, 0)];
        assert_eq!(addresses(&look_up(PLUS, &overwritten)), [] as [usize; 0]);
        let called = [instruction(CALL, 0, 0, 0, 7)];
        assert_eq!(addresses(&look_up(PLUS, &called)), [] as [usize; 0]);
    }

    #[test]
    fn a_constant_in_a_register_counts_too() {
        let by_register = instruction(0x0f, 2, 4, 0, 0);
        let load = [instruction(LDDW, 4, 0, 0, 0x27d4_eb2f), instruction(0, 0, 0, 0, 0)].concat();
        let program = [load, look_up(by_register, &[])].concat();
        assert_eq!(addresses(&program), [7]);
    }

    #[test]
    fn what_is_no_object_is_said() {
        assert!(find(b"#!/bin/sh\n").is_err());
        assert!(find(&[0x7f, b'E', b'L', b'F', 2, 1]).is_err());
    }
}
