//! Kafka's primitive types, read and written once for the classic and once for the flexible encoding.
//!
//! Every length is checked against the bytes that are left before anything is made of it, and a message may
//! hold a bounded number of elements: a frame can make us allocate in proportion to what it carries, never
//! in proportion to what it claims. Nothing here recurses further than the schemas do, and none of them does.
//!
//! Writing cannot fail. A field that a version does not have is left out, null in a version without null is
//! written as empty, and a string too long for its length field is cut: a client gets an answer it can read.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::message::Error;
use super::records::{Part, Records};

/// Elements of all arrays of one message together. Kafka 4.4 draws the line at as many per array.
const ELEMENTS_MAX: usize = 1_000_000;
/// Tagged fields of one structure, as in Kafka 4.4.
const TAGS_MAX: u32 = 10_000;
/// Arrays grow to this many elements by their claimed length, beyond it only by what really arrives.
const PREALLOCATED_MAX: usize = 1024;
/// Records in memory below this size are copied into the frame: cheaper than one more part to send.
const SPLICE_MIN: usize = 1024;

/// A version of a message and whether it is a flexible one (compact lengths, tagged fields).
#[derive(Clone, Copy, Debug)]
pub struct Version {
    pub number: i16,
    pub flexible: bool,
}

impl Version {
    /// For the few fields that keep the classic encoding in flexible versions.
    pub fn classic(self) -> Self {
        Self {
            flexible: false,
            ..self
        }
    }
}

/// A value that knows its encoding.
pub trait Wire: Default {
    /// No encoding in any version is shorter than this.
    const MIN_BYTES: usize;

    fn put(&self, to: &mut Writer, version: Version);
    fn get(from: &mut Reader, version: Version) -> Result<Self, Error>;

    /// Structures mark null with a byte before them; what has a length marks it there.
    fn put_option(value: Option<&Self>, to: &mut Writer, version: Version) {
        match value {
            Some(value) => {
                to.put_slice(&1i8.to_be_bytes());
                value.put(to, version);
            }
            None => to.put_slice(&(-1i8).to_be_bytes()),
        }
    }

    fn get_option(from: &mut Reader, version: Version) -> Result<Option<Self>, Error> {
        if i8::get(from, version)? < 0 {
            Ok(None)
        } else {
            Self::get(from, version).map(Some)
        }
    }
}

/// Writes a field that may be null in some versions of its message; `allowed` says whether in this one.
pub fn put_nullable<T: Wire>(value: &Option<T>, to: &mut Writer, version: Version, allowed: bool) {
    match value {
        _ if allowed => T::put_option(value.as_ref(), to, version),
        Some(value) => value.put(to, version),
        None => T::default().put(to, version),
    }
}

pub fn get_nullable<T: Wire>(from: &mut Reader, version: Version, allowed: bool) -> Result<Option<T>, Error> {
    if allowed {
        T::get_option(from, version)
    } else {
        T::get(from, version).map(Some)
    }
}

/// The bytes of one message, from front to back.
pub struct Reader {
    bytes: Bytes,
    elements_left: usize,
}

impl Reader {
    pub fn new(bytes: Bytes) -> Self {
        Self {
            bytes,
            elements_left: ELEMENTS_MAX,
        }
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    pub fn take(&mut self, len: usize) -> Result<Bytes, Error> {
        if len > self.bytes.len() {
            return Err(Error::Malformed("it ends early"));
        }
        Ok(self.bytes.split_to(len))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let array = *self
            .bytes
            .first_chunk()
            .ok_or(Error::Malformed("it ends early"))?;
        self.bytes.advance(N);
        Ok(array)
    }

    fn unsigned_varint(&mut self) -> Result<u32, Error> {
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u32::try_from(value)
                    .map_err(|_wide| Error::Malformed("a number of more than 32 bits"));
            }
        }
        Err(Error::Malformed("a number of more than five bytes"))
    }

    /// A length, or None for null. What it counts takes at least `min_bytes` each, so it must fit.
    fn length(&mut self, kind: Length, version: Version, min_bytes: usize) -> Result<Option<usize>, Error> {
        let length = match kind {
            _ if version.flexible => i64::from(self.unsigned_varint()?) - 1,
            Length::Short => i16::from_be_bytes(self.array()?).into(),
            Length::Long => i32::from_be_bytes(self.array()?).into(),
        };
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_negative| Error::Malformed("a negative length"))?;
        match length.checked_mul(min_bytes) {
            Some(bytes) if bytes <= self.bytes.len() => Ok(Some(length)),
            _ => Err(Error::Malformed("a length beyond its end")),
        }
    }

    fn spend(&mut self, elements: usize) -> Result<(), Error> {
        self.elements_left = self
            .elements_left
            .checked_sub(elements)
            .ok_or(Error::Malformed("too many elements"))?;
        Ok(())
    }

    /// Hands each tagged field to `known`, which ignores the tags it does not know.
    pub fn tags(&mut self, mut known: impl FnMut(u32, &mut Self) -> Result<(), Error>) -> Result<(), Error> {
        let count = self.unsigned_varint()?;
        if count > TAGS_MAX {
            return Err(Error::Malformed("too many tagged fields"));
        }
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            let len = self.unsigned_varint()?;
            let bytes = self.take(len as usize)?;
            let mut field = Self {
                bytes,
                elements_left: self.elements_left,
            };
            known(tag, &mut field)?;
            self.elements_left = field.elements_left;
        }
        Ok(())
    }
}

/// The bytes of one message in the making. Records are not copied in but remembered with their place.
#[derive(Default)]
pub struct Writer {
    bytes: BytesMut,
    /// Behind how many of our bytes each part belongs.
    spliced: Vec<(usize, Part)>,
}

impl Writer {
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: BytesMut::with_capacity(bytes),
            spliced: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() + self.spliced.iter().map(|(_, part)| part.len()).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.bytes.put_slice(bytes);
    }

    /// Overwrites what was written at the very front.
    pub fn overwrite_front(&mut self, bytes: &[u8]) {
        self.bytes[..bytes.len()].copy_from_slice(bytes);
    }

    /// Everything in order. What was written here is one allocation, cut where records are spliced in.
    pub fn into_parts(self) -> Vec<Part> {
        let mut bytes = self.bytes.freeze();
        let mut parts = Vec::with_capacity(2 * self.spliced.len() + 1);
        let mut taken = 0;
        for (at, part) in self.spliced {
            if at > taken {
                parts.push(Part::Memory(bytes.split_to(at - taken)));
                taken = at;
            }
            parts.push(part);
        }
        if !bytes.is_empty() {
            parts.push(Part::Memory(bytes));
        }
        parts
    }

    fn splice(&mut self, part: &Part) {
        match part {
            Part::Memory(bytes) if bytes.len() < SPLICE_MIN => self.put_slice(bytes),
            Part::Memory(_) | Part::File { .. } => self.spliced.push((self.bytes.len(), part.clone())),
        }
    }

    fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        let [.., last] = value.to_be_bytes();
        self.bytes.put_u8(last);
    }

    fn length(&mut self, length: Option<usize>, kind: Length, version: Version) {
        const FITS: &str = "nothing we answer has two billion elements";
        match (kind, length) {
            (_, None) if version.flexible => self.unsigned_varint(0),
            (_, Some(length)) if version.flexible => {
                self.unsigned_varint(u32::try_from(length + 1).expect(FITS));
            }
            (Length::Short, None) => self.bytes.put_i16(-1),
            (Length::Short, Some(length)) => {
                self.bytes
                    .put_i16(i16::try_from(length).expect("strings are cut before"));
            }
            (Length::Long, None) => self.bytes.put_i32(-1),
            (Length::Long, Some(length)) => self.bytes.put_i32(i32::try_from(length).expect(FITS)),
        }
    }

    /// The mark of a structure without tagged fields.
    pub fn no_tags(&mut self) {
        self.unsigned_varint(0);
    }
}

/// The tagged fields of one structure, in ascending order.
#[derive(Default)]
pub struct Tags {
    count: u32,
    fields: Writer,
}

impl Tags {
    pub fn add(&mut self, tag: u32, put: impl FnOnce(&mut Writer)) {
        let mut field = Writer::default();
        put(&mut field);
        assert!(
            field.spliced.is_empty(),
            "no schema has records in a tagged field"
        );
        self.count += 1;
        self.fields.unsigned_varint(tag);
        self.fields
            .unsigned_varint(u32::try_from(field.len()).expect("tagged fields are small"));
        self.fields.put_slice(&field.bytes);
    }

    pub fn put(self, to: &mut Writer) {
        to.unsigned_varint(self.count);
        to.put_slice(&self.fields.bytes);
    }
}

/// How wide a classic length is: strings have two bytes, everything else four.
#[derive(Clone, Copy)]
enum Length {
    Short,
    Long,
}

macro_rules! fixed_width {
    ($($number:ty),*) => { $(
        impl Wire for $number {
            const MIN_BYTES: usize = size_of::<Self>();

            fn put(&self, to: &mut Writer, _: Version) {
                to.put_slice(&self.to_be_bytes());
            }

            fn get(from: &mut Reader, _: Version) -> Result<Self, Error> {
                from.array().map(Self::from_be_bytes)
            }
        }
    )* };
}
fixed_width!(i8, i16, u16, i32, u32, i64, f64);

impl Wire for bool {
    const MIN_BYTES: usize = 1;

    fn put(&self, to: &mut Writer, _: Version) {
        to.put_slice(&[u8::from(*self)]);
    }

    fn get(from: &mut Reader, _: Version) -> Result<Self, Error> {
        from.array().map(|[byte]| byte != 0)
    }
}

impl Wire for Uuid {
    const MIN_BYTES: usize = 16;

    fn put(&self, to: &mut Writer, _: Version) {
        to.put_slice(self.as_bytes());
    }

    fn get(from: &mut Reader, _: Version) -> Result<Self, Error> {
        from.array().map(Self::from_bytes)
    }
}

/// What is left to say of a type that starts with its length: null is a length too.
macro_rules! null_by_length {
    () => {
        fn put(&self, to: &mut Writer, version: Version) {
            Self::put_option(Some(self), to, version);
        }

        fn get(from: &mut Reader, version: Version) -> Result<Self, Error> {
            Self::get_option(from, version)?.ok_or(Error::Malformed("null where a value must be"))
        }
    };
}

impl Wire for StrBytes {
    const MIN_BYTES: usize = 1;
    null_by_length!();

    fn put_option(value: Option<&Self>, to: &mut Writer, version: Version) {
        let max = if version.flexible {
            usize::MAX
        } else {
            i16::MAX as usize
        };
        let value = value.map(|text| &text[..text.floor_char_boundary(max)]);
        to.length(value.map(str::len), Length::Short, version);
        to.put_slice(value.unwrap_or_default().as_bytes());
    }

    fn get_option(from: &mut Reader, version: Version) -> Result<Option<Self>, Error> {
        let Some(len) = from.length(Length::Short, version, 1)? else {
            return Ok(None);
        };
        let text = Self::from_utf8(from.take(len)?);
        text.map(Some)
            .map_err(|_invalid| Error::Malformed("a string that is not UTF-8"))
    }
}

impl Wire for Bytes {
    const MIN_BYTES: usize = 1;
    null_by_length!();

    fn put_option(value: Option<&Self>, to: &mut Writer, version: Version) {
        to.length(value.map(Self::len), Length::Long, version);
        to.put_slice(value.map_or(&[], |bytes| bytes));
    }

    fn get_option(from: &mut Reader, version: Version) -> Result<Option<Self>, Error> {
        from.length(Length::Long, version, 1)?
            .map(|len| from.take(len))
            .transpose()
    }
}

impl Wire for Records {
    const MIN_BYTES: usize = 1;
    null_by_length!();

    fn put_option(value: Option<&Self>, to: &mut Writer, version: Version) {
        to.length(value.map(Self::len), Length::Long, version);
        for part in value.iter().flat_map(|records| &records.parts) {
            to.splice(part);
        }
    }

    fn get_option(from: &mut Reader, version: Version) -> Result<Option<Self>, Error> {
        Ok(Bytes::get_option(from, version)?.map(Self::from))
    }
}

impl<T: Wire> Wire for Vec<T> {
    const MIN_BYTES: usize = 1;
    null_by_length!();

    fn put_option(value: Option<&Self>, to: &mut Writer, version: Version) {
        to.length(value.map(Self::len), Length::Long, version);
        for element in value.into_iter().flatten() {
            element.put(to, version);
        }
    }

    fn get_option(from: &mut Reader, version: Version) -> Result<Option<Self>, Error> {
        let Some(count) = from.length(Length::Long, version, T::MIN_BYTES)? else {
            return Ok(None);
        };
        from.spend(count)?;
        let mut elements = Self::with_capacity(count.min(PREALLOCATED_MAX));
        for _ in 0..count {
            elements.push(T::get(from, version)?);
        }
        Ok(Some(elements))
    }
}
