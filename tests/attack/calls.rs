//! Programs that make system calls and say what came of them, as machine code put together here: 64-bit and 32-bit x86,
//! any number, any argument, no C library, no compiler, and so small that they run in an empty tree.

/// Where a program is in memory; below 4 GiB, so that i386 calls reach it.
const BASE: u64 = 0x40_0000;
/// Its code, its data and the results each have a page or more of their own.
const DATA: u64 = 0x2000;
const RESULTS: u64 = 0x4000;
const SIZE: u64 = 0x5000;

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// `syscall`, of 64-bit programs.
    Wide,
    /// `int 0x80`: calls of i386, from programs of both.
    I386,
}

/// An argument of a call.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Number(u64),
    /// The address of these bytes, which can be written.
    Bytes(Vec<u8>),
    /// What an earlier call returned, by its place.
    Result(u32),
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Number(i64::from(number).cast_unsigned())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(bytes: &[u8; N]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

/// The calls of a program.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    wide: bool,
    code: Vec<u8>,
    data: Vec<u8>,
    calls: u32,
}

impl Program {
    /// A 64-bit program.
    pub(crate) fn x86_64() -> Self {
        Self { wide: true, code: Vec::new(), data: Vec::new(), calls: 0 }
    }

    /// A 32-bit program.
    pub(crate) fn i386() -> Self {
        Self { wide: false, ..Self::x86_64() }
    }

    /// Makes a call through the door that the program's own C library would take.
    pub(crate) fn call(self, number: i64, arguments: &[Value]) -> Self {
        let door = if self.wide { Door::Wide } else { Door::I386 };
        self.call_by(door, number, arguments)
    }

    /// Makes a call. Numbers are as the door counts them.
    pub(crate) fn call_by(mut self, door: Door, number: i64, arguments: &[Value]) -> Self {
        // rdi rsi rdx r10 r8 r9 (syscall(2)); ebx ecx edx esi edi ebp
        let wide: [&[u8]; 6] =
            [&[0x48, 0xbf], &[0x48, 0xbe], &[0x48, 0xba], &[0x49, 0xba], &[0x49, 0xb8], &[0x49, 0xb9]];
        let narrow = [0xbb, 0xb9, 0xba, 0xbe, 0xbf, 0xbd];
        for (index, argument) in arguments.iter().enumerate() {
            match (self.value(argument), door) {
                (Known::Number(value), Door::Wide) => {
                    self.code.extend(wide[index]);
                    self.code.extend(value.to_le_bytes());
                }
                (Known::Number(value), Door::I386) => {
                    self.code.push(narrow[index]);
                    self.code.extend(low(value).to_le_bytes());
                }
                (Known::At(address), _) => {
                    // Only the first two arguments: mov rdi/rsi/ebx/ecx, [address]
                    let (prefix, register) = match (door, index) {
                        (Door::Wide, 0) => (&[0x48][..], 0x3c),
                        (Door::Wide, 1) => (&[0x48][..], 0x34),
                        (Door::I386, 0) => (&[][..], 0x1c),
                        (Door::I386, 1) => (&[][..], 0x0c),
                        _ => panic!("only the first two arguments can be results"),
                    };
                    self.code.extend(prefix);
                    self.code.extend([0x8b, register, 0x25]);
                    self.code.extend(low(address).to_le_bytes());
                }
            }
        }
        // mov eax, number: the upper half becomes zero.
        self.code.push(0xb8);
        self.code.extend(low(number.cast_unsigned()).to_le_bytes());
        self.code.extend(if door == Door::Wide { [0x0f, 0x05] } else { [0xcd, 0x80] });
        self.store();
        self
    }

    /// mov [result], rax or eax
    fn store(&mut self) {
        let address = BASE + RESULTS + 8 * u64::from(self.calls);
        if self.wide {
            self.code.extend([0x48, 0xa3]);
            self.code.extend(address.to_le_bytes());
        } else {
            self.code.push(0xa3);
            self.code.extend(low(address).to_le_bytes());
        }
        self.calls += 1;
    }

    fn value(&mut self, value: &Value) -> Known {
        match value {
            Value::Number(number) => Known::Number(*number),
            Value::Result(call) => Known::At(BASE + RESULTS + 8 * u64::from(*call)),
            Value::Bytes(bytes) => {
                let address = BASE + DATA + self.data.len() as u64;
                self.data.extend(bytes);
                self.data.resize(self.data.len().next_multiple_of(8), 0);
                Known::Number(address)
            }
        }
    }

    /// The whole file. It writes eight bytes for each call to its standard output.
    pub(crate) fn file(&self) -> Vec<u8> {
        let length = u64::from(self.calls) * 8;
        let (write, exit) = if self.wide { (1, 60) } else { (4, 1) };
        let tell = [1.into(), (BASE + RESULTS).into(), length.into()];
        let whole = self.clone().call(write, &tell).call(exit, &[0.into()]);
        let mut file = if self.wide { header_64() } else { header_32() };
        file.extend(&whole.code);
        assert!(file.len() as u64 <= DATA && whole.data.len() as u64 <= RESULTS - DATA, "too many calls");
        file.resize(usize::try_from(DATA).unwrap(), 0);
        file.extend(&whole.data);
        file.resize(usize::try_from(RESULTS).unwrap(), 0);
        file
    }

    /// What the calls of such a program returned, from its standard output: negative numbers are errors.
    pub(crate) fn results(&self, output: &[u8]) -> Vec<i64> {
        let number = |bytes: &[u8]| {
            let bytes: [u8; 8] = bytes.try_into().unwrap();
            // A 32-bit program leaves the upper half zero.
            if self.wide {
                i64::from_le_bytes(bytes)
            } else {
                i64::from(u64::from_le_bytes(bytes) as u32 as i32)
            }
        };
        output.chunks_exact(8).map(number).collect()
    }
}

enum Known {
    Number(u64),
    /// The number is at this address.
    At(u64),
}

fn low(value: u64) -> u32 {
    value as u32
}

/// Elf64_Ehdr and one Elf64_Phdr (elf(5)): everything in one segment that can be read, written and executed.
fn header_64() -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    file.resize(16, 0);
    let half =
        |file: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    half(&mut file, &[2, 62]);
    file.extend(1_u32.to_le_bytes());
    for value in [BASE + 120, 64, 0] {
        file.extend(value.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    half(&mut file, &[64, 56, 1, 0, 0, 0]);
    file.extend(1_u32.to_le_bytes());
    file.extend(7_u32.to_le_bytes());
    for value in [0, BASE, BASE, RESULTS, SIZE, 0x1000] {
        file.extend(value.to_le_bytes());
    }
    assert_eq!(file.len(), 120);
    file
}

/// The same for Elf32_Ehdr and Elf32_Phdr.
fn header_32() -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0];
    file.resize(16, 0);
    let half =
        |file: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    half(&mut file, &[2, 3]);
    for value in [1, low(BASE) + 84, 52, 0, 0] {
        file.extend(value.to_le_bytes());
    }
    half(&mut file, &[52, 32, 1, 0, 0, 0]);
    for value in [1, 0, low(BASE), low(BASE), low(RESULTS), low(SIZE), 7, 0x1000] {
        file.extend(value.to_le_bytes());
    }
    assert_eq!(file.len(), 84);
    file
}
