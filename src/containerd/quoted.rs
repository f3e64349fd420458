//! Text in quotes as in Go, which containerd's filters and fields have from there
//! ([String literals](https://go.dev/ref/spec#String_literals)).

/// What is wrong, and at which byte.
pub(super) type Wrong = (usize, &'static str);

/// Reads the quoted text that begins at byte `from`, with whatever quote stands there; returns it and where it ends.
///
/// Escapes are Go's, and the quote's own. What is not UTF-8 in the end is wrong: nothing here could be equal to it.
pub(super) fn read(text: &str, from: usize) -> Result<(String, usize), Wrong> {
    let quote = text.as_bytes()[from];
    let mut bytes = Vec::new();
    let mut at = from + 1;
    while let Some(byte) = text.as_bytes().get(at) {
        match byte {
            b'\n' => break,
            b'\\' => at = escape(text.as_bytes(), at, quote, &mut bytes)?,
            byte if *byte == quote => {
                let text =
                    String::from_utf8(bytes).map_err(|_| (from, "what is in the quotes is not UTF-8"))?;
                return Ok((text, at + 1));
            }
            byte => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    Err((from, "the quotes are not closed"))
}

/// Reads the escape that begins at byte `at`; returns where it ends.
fn escape(text: &[u8], at: usize, quote: u8, into: &mut Vec<u8>) -> Result<usize, Wrong> {
    let unknown = (at, "there is no such escape; a backslash is written as two");
    let letter = *text.get(at + 1).ok_or(unknown)?;
    let plain = match letter {
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b'\\' => b'\\',
        b'0'..=b'7' => {
            let value = number(text, at + 1, 3, 8).and_then(|value| u8::try_from(value).ok());
            into.push(value.ok_or((at, "an octal escape is three digits, \\377 at most"))?);
            return Ok(at + 4);
        }
        b'x' => {
            let value = number(text, at + 2, 2, 16).and_then(|value| u8::try_from(value).ok());
            into.push(value.ok_or((at, "\\x has two hexadecimal digits"))?);
            return Ok(at + 4);
        }
        b'u' | b'U' => {
            let digits = if letter == b'u' { 4 } else { 8 };
            let value = number(text, at + 2, digits, 16).and_then(char::from_u32);
            let value = value.ok_or((at, "\\u has four hexadecimal digits and \\U eight, of a character"))?;
            into.extend_from_slice(value.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(at + 2 + digits);
        }
        letter if letter == quote => quote,
        _ => return Err(unknown),
    };
    into.push(plain);
    Ok(at + 2)
}

fn number(text: &[u8], from: usize, digits: usize, radix: u32) -> Option<u32> {
    let digits = text.get(from..from + digits)?;
    digits.iter().try_fold(0_u32, |value, digit| {
        let digit = char::from(*digit).to_digit(radix)?;
        value.checked_mul(radix)?.checked_add(digit)
    })
}
