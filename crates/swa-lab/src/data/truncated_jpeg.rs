//! JPEG files that end before their image does.
//!
//! `image` decodes them with zune-jpeg (0.5), which makes up the rows that are not there; its strict mode, which cannot be
//! turned on, refuses images that are whole. Pillow, and so torchvision, refuses a file if its decoder, libjpeg-turbo (3), asks
//! for more bytes than there are. This follows that decoder (`jdhuff.c`, `jdmarker.c`) bit by bit, since it reads ahead: even a
//! file that lacks nothing but the marker of its end is refused, unless a few other bytes stand there.
//!
//! If a *marker* comes too early, both decoders go on with zeros, and Pillow takes the image.

/// The number of bits that a code is looked up by.
const LOOKED_UP: u32 = 8;

/// The number of bits that are read ahead, at least, where registers have 64.
const READ_AHEAD: u32 = 57;

/// The number of bytes for each block that have to be there for the decoder to be the fast one.
const FAST_BYTES: usize = 512;

/// The markers of a frame with Huffman coding: baseline, extended, progressive.
const FRAMES: std::ops::RangeInclusive<u8> = 0xC0..=PROGRESSIVE;
const PROGRESSIVE: u8 = 0xC2;
const HUFFMAN_CODES: u8 = 0xC4;
/// The markers of the eight points to restart from.
const RESTART: u8 = 0xD0;
const LAST_RESTART: u8 = 0xD7;
const BEGIN: u8 = 0xD8;
const END: u8 = 0xD9;
const SCAN: u8 = 0xDA;
const RESTART_INTERVAL: u8 = 0xDD;

/// Tells whether a file ends before its JPEG image does. Nothing is said of a file that is no such image for another reason.
pub(super) fn is_truncated(file: &[u8]) -> bool {
    let read = || {
        let mut bytes = Bytes { file, at: 0 };
        if [bytes.next()?, bytes.next()?] == [0xFF, BEGIN] {
            bytes.read_image()
        } else {
            Err(Stop::Unknown)
        }
    };
    matches!(read(), Err(Stop::Truncated))
}

/// The reason to read no further.
enum Stop {
    /// The file is at its end.
    Truncated,
    /// The image is none, or of no kind that is known here.
    Unknown,
}

/// The head of an image.
struct Frame {
    progressive: bool,
    /// Width and height, in pixels.
    size: [usize; 2],
    components: Vec<Component>,
}

/// A component of an image, such as its brightness.
struct Component {
    id: u8,
    /// Its blocks in a unit: columns and rows.
    blocks: [usize; 2],
}

/// A Huffman code.
struct Code<'a> {
    /// One more than the greatest code of each length, from 1 to 16 bits.
    ends: [u32; 16],
    /// The numbers of codes that are shorter than each length, less the least code of that length.
    offsets: [u32; 16],
    /// The values that the codes stand for.
    values: &'a [u8],
}

impl<'a> Code<'a> {
    fn new(counts: &[u8; 16], values: &'a [u8]) -> Self {
        let (mut ends, mut offsets) = ([0; 16], [0; 16]);
        let (mut shorter, mut least) = (0, 0_u32);
        for (length, &count) in counts.iter().enumerate() {
            let count = u32::from(count);
            offsets[length] = u32::wrapping_sub(shorter, least);
            shorter += count;
            least += count;
            if count > 0 {
                ends[length] = least;
            }
            least <<= 1;
        }
        Self {
            ends,
            offsets,
            values,
        }
    }

    /// The value of a word of this length, if it is a code.
    fn value(&self, word: u32, length: u32) -> Option<u8> {
        let length = length as usize - 1;
        let value = word.wrapping_add(*self.offsets.get(length)?) as usize;
        (word < self.ends[length]).then(|| self.values.get(value).copied().unwrap_or(0))
    }
}

/// A frame's segment.
fn frame(segment: &[u8], progressive: bool) -> Option<Frame> {
    let &[8, h1, h0, w1, w0, count, ref components @ ..] = segment else {
        return None;
    };
    let components = components.as_chunks::<3>().0.iter();
    let components: Vec<Component> = components
        .map(|&[id, blocks, _]| Component {
            id,
            blocks: [blocks >> 4, blocks & 15].map(usize::from),
        })
        .collect();
    let mut sides = components.iter().flat_map(|component| component.blocks);
    let valid = components.len() == usize::from(count) && sides.all(|side| (1..=4).contains(&side));
    valid.then_some(Frame {
        progressive,
        size: [[w1, w0], [h1, h0]].map(|side| usize::from(u16::from_be_bytes(side))),
        components,
    })
}

/// Codes by their class, which is DC or AC, and number.
type Codes<'a> = [[Option<Code<'a>>; 4]; 2];

/// Puts the codes of a segment in their places.
fn read_codes<'a>(mut segment: &'a [u8], codes: &mut Codes<'a>) -> Option<()> {
    while let Some((place, rest)) = segment.split_first() {
        let (counts, rest) = rest.split_first_chunk()?;
        let values = counts.iter().copied().map(usize::from).sum();
        let (values, rest) = rest.split_at_checked(values)?;
        let class = codes.get_mut(usize::from(place >> 4))?;
        *class.get_mut(usize::from(place & 15))? = Some(Code::new(counts, values));
        segment = rest;
    }
    Some(())
}

/// A file, and the place in it.
#[derive(Clone, Copy)]
struct Bytes<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    fn next(&mut self) -> Result<u8, Stop> {
        let byte = self.file.get(self.at).ok_or(Stop::Truncated)?;
        self.at += 1;
        Ok(*byte)
    }

    /// Skips what is before the next marker.
    fn next_marker(&mut self) -> Result<u8, Stop> {
        loop {
            while self.next()? != 0xFF {}
            let mut marker = self.next()?;
            while marker == 0xFF {
                marker = self.next()?;
            }
            if marker != 0 {
                return Ok(marker);
            }
        }
    }

    /// The segment that begins here, without its length.
    fn segment(&mut self) -> Result<&'a [u8], Stop> {
        let length = usize::from(u16::from_be_bytes([self.next()?, self.next()?]));
        let length = length.checked_sub(2).ok_or(Stop::Unknown)?;
        let segment = self.file[self.at..].get(..length).ok_or(Stop::Truncated)?;
        self.at += length;
        Ok(segment)
    }

    /// Reads what comes after the first marker.
    fn read_image(mut self) -> Result<(), Stop> {
        let mut codes = Codes::default();
        let (mut head, mut restart_interval) = (None, 0);
        loop {
            let marker = self.next_marker()?;
            match marker {
                SCAN => break,
                // They have no segment.
                0x01 | RESTART..=LAST_RESTART => {}
                marker if FRAMES.contains(&marker) => {
                    head = frame(self.segment()?, marker == PROGRESSIVE);
                }
                HUFFMAN_CODES => read_codes(self.segment()?, &mut codes).ok_or(Stop::Unknown)?,
                RESTART_INTERVAL => {
                    let interval = self.segment()?.first_chunk().ok_or(Stop::Unknown)?;
                    restart_interval = usize::from(u16::from_be_bytes(*interval));
                }
                // An end without a scan, and frames of other coding.
                BEGIN | END | 0xC3..=0xCF => return Err(Stop::Unknown),
                _ => drop(self.segment()?),
            }
        }
        let frame: Frame = head.ok_or(Stop::Unknown)?;
        let scan = self.segment()?;
        let (count, scan) = scan.split_first().ok_or(Stop::Unknown)?;
        if frame.progressive || usize::from(*count) < frame.components.len() {
            // All scans are read before the first row is computed.
            return self.read_to_end();
        }
        if self.file.ends_with(&[0xFF, END]) {
            // The scan's bits end at a marker, at this one at the latest. Photographs are not read bit by bit.
            return Ok(());
        }
        let blocks = frame.blocks_of_a_unit(scan, &codes).ok_or(Stop::Unknown)?;
        let scan = Scan {
            bytes: self,
            buffer: 0,
            left: 0,
            marker: None,
            exhausted: false,
        };
        scan.read(frame.units(), &blocks, restart_interval)
    }

    /// Reads up to the marker of the image's end.
    fn read_to_end(mut self) -> Result<(), Stop> {
        loop {
            match self.next_marker()? {
                END => return Ok(()),
                0x01 | RESTART..=LAST_RESTART => {}
                _ => drop(self.segment()?),
            }
        }
    }
}

impl Frame {
    /// The codes of the blocks of a unit, for a scan of all components.
    fn blocks_of_a_unit<'a>(
        &self,
        scan: &[u8],
        codes: &'a Codes<'a>,
    ) -> Option<Vec<[&'a Code<'a>; 2]>> {
        let mut blocks = Vec::new();
        let selected = scan.get(..2 * self.components.len())?.as_chunks::<2>().0;
        for [id, places] in selected {
            let component = self.components.iter().find(|it| it.id == *id)?;
            let [dc, ac] = [places >> 4, places & 15].map(usize::from);
            let of_block = [codes[0].get(dc)?.as_ref()?, codes[1].get(ac)?.as_ref()?];
            let count = match self.components.as_slice() {
                [_] => 1,
                _ => component.blocks.iter().product(),
            };
            blocks.extend(std::iter::repeat_n(of_block, count));
        }
        Some(blocks)
    }

    /// The number of units of a scan of all components. A single component's units are its blocks.
    fn units(&self) -> usize {
        let units = [0, 1].map(|side| {
            let blocks = match self.components.as_slice() {
                [_] => 1,
                several => several.iter().map(|it| it.blocks[side]).max().unwrap_or(1),
            };
            self.size[side].div_ceil(8 * blocks)
        });
        units.iter().product()
    }
}

/// A scan, whose bits were read from the file up to some place.
#[derive(Clone, Copy)]
struct Scan<'a> {
    bytes: Bytes<'a>,
    /// The bits that were read, the last ones lowest.
    buffer: u64,
    /// The number of bits that were read and not yet used.
    left: u32,
    /// The marker that the bits end at.
    marker: Option<u8>,
    /// True once bits after that marker were asked for. From there on, all coefficients are 0.
    exhausted: bool,
}

impl Scan<'_> {
    /// Reads all blocks.
    fn read(
        mut self,
        units: usize,
        blocks: &[[&Code<'_>; 2]],
        restart_interval: usize,
    ) -> Result<(), Stop> {
        for unit in 0..units {
            if restart_interval > 0 && unit > 0 && unit % restart_interval == 0 {
                let restarts = unit / restart_interval - 1;
                self.restart(RESTART + (restarts % 8) as u8)?;
            }
            if self.exhausted {
                continue;
            }
            let ahead = self.bytes.file.len() - self.bytes.at;
            let fast = restart_interval == 0
                && self.marker.is_none()
                && ahead >= FAST_BYTES * blocks.len();
            if fast {
                let begin = self;
                for codes in blocks {
                    self.read_block(codes, true)?;
                }
                if self.marker.is_none() {
                    continue;
                }
                // The slow decoder has to see the marker.
                self = begin;
            }
            for codes in blocks {
                self.read_block(codes, false)?;
            }
        }
        Ok(())
    }

    /// Reads a block's coefficients.
    fn read_block(&mut self, [dc, ac]: &[&Code<'_>; 2], fast: bool) -> Result<(), Stop> {
        let bits = self.value(dc, fast)?;
        if bits > 15 {
            return Err(Stop::Unknown);
        }
        self.skip(bits, fast)?;
        let mut coefficient = 1;
        while coefficient < 64 {
            let value = self.value(ac, fast)?;
            let (zeros, bits) = (value >> 4, value & 15);
            if bits > 0 {
                self.skip(bits, fast)?;
            } else if zeros < 15 {
                break;
            }
            coefficient += usize::from(zeros) + 1;
        }
        Ok(())
    }

    /// The value of the code that comes next.
    fn value(&mut self, code: &Code<'_>, fast: bool) -> Result<u8, Stop> {
        if fast {
            self.fill_fast()?;
        } else if self.left < LOOKED_UP {
            self.fill(0)?;
        }
        let mut length = 1;
        if self.left >= LOOKED_UP {
            let word =
                |length| (self.buffer >> (self.left - length)) as u32 & ((1_u32 << length) - 1);
            let mut lengths = 1..=LOOKED_UP;
            let found = lengths.find(|&length| code.value(word(length), length).is_some());
            length = found.unwrap_or(LOOKED_UP + 1);
        }
        let mut word = self.take(length)?;
        loop {
            if let Some(value) = code.value(word, length) {
                return Ok(value);
            }
            if length > 16 {
                // There is no such code.
                return Ok(0);
            }
            word = word << 1 | self.take(1)?;
            length += 1;
        }
    }

    fn skip(&mut self, bits: u8, fast: bool) -> Result<(), Stop> {
        if fast && bits > 0 {
            self.fill_fast()?;
        }
        self.take(bits.into()).map(drop)
    }

    /// The next bits.
    fn take(&mut self, bits: u32) -> Result<u32, Stop> {
        if self.left < bits {
            self.fill(bits)?;
        }
        self.left -= bits;
        Ok((self.buffer >> self.left) as u32 & ((1 << bits) - 1))
    }

    /// Reads ahead; so many `bits` are needed.
    fn fill(&mut self, bits: u32) -> Result<(), Stop> {
        while self.marker.is_none() && self.left < READ_AHEAD {
            let byte = self.bytes.next()?;
            if byte == 0xFF {
                let mut next = self.bytes.next()?;
                while next == 0xFF {
                    next = self.bytes.next()?;
                }
                if next != 0 {
                    self.marker = Some(next);
                    break;
                }
            }
            self.buffer = self.buffer << 8 | u64::from(byte);
            self.left += 8;
        }
        if self.left < bits {
            self.exhausted = true;
            self.buffer <<= READ_AHEAD - self.left;
            self.left = READ_AHEAD;
        }
        Ok(())
    }

    /// Reads six bytes ahead, if there are few bits. At a marker it reads zeros.
    fn fill_fast(&mut self) -> Result<(), Stop> {
        if self.left > 16 {
            return Ok(());
        }
        for _ in 0..6 {
            let mut byte = self.bytes.next()?;
            if byte == 0xFF {
                let next = self.bytes.next()?;
                if next != 0 {
                    self.marker = Some(next);
                    self.bytes.at -= 2;
                    byte = 0;
                }
            }
            self.buffer = self.buffer << 8 | u64::from(byte);
            self.left += 8;
        }
        Ok(())
    }

    /// Goes on at the next point to restart from, whose marker should be `expected`.
    fn restart(&mut self, expected: u8) -> Result<(), Stop> {
        self.left = 0;
        let mut marker = match self.marker.take() {
            Some(marker) => marker,
            None => self.bytes.next_marker()?,
        };
        self.marker = loop {
            match (marker, marker.wrapping_sub(expected) % 8) {
                _ if marker == expected => break None,
                (RESTART..=LAST_RESTART, 6 | 7) | (..0xC0, _) => {
                    marker = self.bytes.next_marker()?
                }
                (RESTART..=LAST_RESTART, 0 | 3..6) => break None,
                // This restart is missing.
                _ => break Some(marker),
            }
        };
        self.exhausted &= self.marker.is_some();
        Ok(())
    }
}
