// The safetensors reader against every malformed file that the format's rules name, and the writer against the reader.
import { describe, expect, it } from 'vitest'
import type { ByteSource } from '../../compiler/host.ts'
import { decodeFloats, firstNonFinite } from '../../compiler/safetensors/decode.ts'
import { MAX_HEADER_BYTES, readHeader } from '../../compiler/safetensors/read.ts'
import { type FloatTensorSource, readFloats, readTransposed } from '../../compiler/safetensors/stream.ts'
import { encodeSafetensors } from '../../compiler/safetensors/write.ts'
import { expectRefusal, refusal } from './failing.ts'
import { memorySource } from './folders.ts'
import { float32, parseRaw, rawFile, writeRaw } from './safetensors-file.ts'

const read = (bytes: Uint8Array) => readHeader(memorySource('x.safetensors', bytes))
const refused = (bytes: Uint8Array, ...words: string[]) =>
  expectRefusal(() => read(bytes), 'safetensors-invalid', 'x.safetensors', ...words)
const entry = (dtype: string, shape: string, offsets: string) =>
  `{"dtype":"${dtype}","shape":${shape},"data_offsets":${offsets}}`

describe('the reader', () => {
  it('reads names, types, shapes, places and metadata', async () => {
    const file = writeRaw(
      new Map([
        ['b', { dtype: 'F32', shape: [2, 1], data: float32([1, 2]) }],
        ['a', { dtype: 'BF16', shape: [3], data: new Uint8Array(6) }],
        ['scalar', { dtype: 'F32', shape: [], data: float32([5]) }],
        ['empty', { dtype: 'I64', shape: [0, 7], data: new Uint8Array() }],
      ]),
      { format: 'pt' },
    )
    const { tensors, metadata } = await read(file)
    expect([...metadata]).toEqual([['format', 'pt']])
    expect([...tensors.values()].map(({ name, dtype, shape, bytes }) => [name, dtype, shape, bytes])).toEqual([
      ['b', 'F32', [2, 1], 8],
      ['a', 'BF16', [3], 6],
      ['scalar', 'F32', [], 4],
      ['empty', 'I64', [0, 7], 0],
    ])
    expect([...(await readFloats(tensors.get('b') as FloatTensorSource))]).toEqual([1, 2])
  })

  it('accepts a header padded with spaces and no tensors', async () => {
    expect((await read(rawFile('{}      '))).tensors.size).toBe(0)
  })

  it('refuses a file cut short at any byte', async () => {
    const file = writeRaw(
      new Map([
        ['w', { dtype: 'F32', shape: [2, 3], data: float32([1, 2, 3, 4, 5, 6]) }],
        ['v', { dtype: 'F16', shape: [3], data: new Uint8Array(6) }],
      ]),
    )
    for (let length = 0; length < file.length; length += 1) {
      const error = await refusal(() => read(file.slice(0, length)))
      expect(error.code).toBe('safetensors-invalid')
    }
  })

  it('reads a header of the largest size and refuses one byte more, without reading it', async () => {
    const source = (headerBytes: number): ByteSource => ({
      name: 'huge',
      size: headerBytes + 8,
      async read(offset, length) {
        if (offset === 0) return Uint8Array.from({ length: 8 }, (_, i) => Math.floor(headerBytes / 256 ** i) % 256)
        if (length > MAX_HEADER_BYTES) throw new Error('the reader asked for the whole header')
        return new TextEncoder().encode('not json')
      },
      async close() {},
    })
    await expectRefusal(() => readHeader(source(MAX_HEADER_BYTES)), 'safetensors-invalid', 'does not start with "{"')
    await expectRefusal(() => readHeader(source(MAX_HEADER_BYTES + 1)), 'safetensors-invalid', 'at most 100000000')
  })

  it.each([
    ['2^64 - 1', 0xffffffffffffffffn],
    ['2^63', 1n << 63n],
    ['2^53 + 1', (1n << 53n) + 1n],
  ])('refuses a header length of %s', async (_, length) => {
    const file = rawFile('{}')
    new DataView(file.buffer, file.byteOffset).setBigUint64(0, length, true)
    await refused(file, 'a header of')
  })

  it.each([
    ['a hole before the first tensor', `{"a":${entry('F32', '[1]', '[4,8]')}}`, 8, 'hole'],
    [
      'a hole between tensors',
      `{"a":${entry('F32', '[1]', '[0,4]')},"b":${entry('F32', '[1]', '[8,12]')}}`,
      12,
      'hole',
    ],
    [
      'tensors that overlap',
      `{"a":${entry('F32', '[2]', '[0,8]')},"b":${entry('F32', '[2]', '[4,12]')}}`,
      12,
      'overlaps',
    ],
    [
      'two tensors in one place',
      `{"a":${entry('F32', '[1]', '[0,4]')},"b":${entry('F32', '[1]', '[0,4]')}}`,
      4,
      'overlaps',
    ],
    ['bytes after the last tensor', `{"a":${entry('F32', '[1]', '[0,4]')}}`, 5, '1 bytes after'],
    ['offsets past the end', `{"a":${entry('F32', '[2]', '[0,8]')}}`, 4, 'outside the 4 bytes'],
    ['offsets in the wrong order', `{"a":${entry('F32', '[1]', '[4,0]')}}`, 4, 'outside'],
    [
      'a size that the shape denies',
      `{"a":${entry('F32', '[3]', '[0,8]')}}`,
      8,
      'takes 12 bytes but data_offsets give 8',
    ],
    ['a shape whose product passes 2^53', `{"a":${entry('U8', '[9007199254740991,2]', '[0,4]')}}`, 4, 'too many'],
    ['a product that wraps around 2^64', `{"a":${entry('U8', '[4294967296,4294967296]', '[0,0]')}}`, 0, 'too many'],
    ['half a byte', `{"a":${entry('F4', '[3]', '[0,2]')}}`, 2, 'too many'],
    ['a size beyond 2^53', `{"a":${entry('U8', '[9007199254740993]', '[0,4]')}}`, 4, '9007199254740993'],
    ['a negative size', `{"a":${entry('U8', '[-4]', '[0,4]')}}`, 4, 'unsigned'],
    ['a fractional size', `{"a":${entry('U8', '[4.0]', '[0,4]')}}`, 4, 'unsigned'],
    ['a size with an exponent', `{"a":${entry('U8', '[4e0]', '[0,4]')}}`, 4, 'unsigned'],
    ['a size in quotes', `{"a":${entry('U8', '["4"]', '[0,4]')}}`, 4, 'shape'],
    ['a shape of 17 dimensions', `{"a":${entry('U8', `[${Array(17).fill(1)}]`, '[0,1]')}}`, 1, 'shape'],
    ['three offsets', `{"a":${entry('U8', '[1]', '[0,1,2]')}}`, 1, 'data_offsets'],
    ['no offsets', '{"a":{"dtype":"U8","shape":[0]}}', 0, 'data_offsets'],
    ['an unknown dtype', `{"a":${entry('F33', '[1]', '[0,4]')}}`, 4, '"F33"'],
    ['a dtype of the prototype', `{"a":${entry('toString', '[1]', '[0,4]')}}`, 4, '"toString"'],
    ['an unknown field', '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}', 1, '"x"'],
    ['a tensor that is no object', '{"a":[]}', 0, 'not described by an object'],
    [
      'a duplicate tensor',
      `{"a":${entry('U8', '[1]', '[0,1]')},"a":${entry('U8', '[1]', '[0,1]')}}`,
      1,
      'duplicate key "a"',
    ],
    [
      'a duplicate field',
      '{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
      1,
      'duplicate key "dtype"',
    ],
    ['a duplicate written with an escape', `{"a":${entry('U8', '[1]', '[0,1]')},"\\u0061":{}}`, 1, 'duplicate key "a"'],
    ['duplicate metadata', '{"__metadata__":{},"__metadata__":{}}', 0, 'duplicate key "__metadata__"'],
    ['metadata that is no string', '{"__metadata__":{"a":1}}', 0, '__metadata__ "a"'],
    ['metadata that is a list', '{"__metadata__":["a"]}', 0, '__metadata__'],
    ['a list', '[]', 0, 'does not start with "{"'],
    ['a space before the header', ' {}', 0, 'does not start with "{"'],
    ['a byte order mark', '\ufeff{}', 0, 'does not start with "{"'],
    ['text after the header', '{}x', 0, 'text after the end'],
    ['deep nesting', `{"a":${'['.repeat(100_000)}`, 0, 'nesting deeper'],
    ['half a surrogate pair', `{"\\ud800":${entry('U8', '[0]', '[0,0]')}}`, 0, 'surrogate'],
  ])('refuses %s', async (_, header, bytes, word) => {
    await refused(rawFile(header, bytes), word)
  })

  it('refuses bytes that are not UTF-8', async () => {
    await refused(rawFile(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d)), 'not UTF-8')
  })

  it('treats __proto__ and constructor as names like any other', async () => {
    const header = `{"__proto__":${entry('U8', '[1]', '[0,1]')},"constructor":${entry('U8', '[1]', '[1,2]')}}`
    expect([...(await read(rawFile(header, 2))).tensors.keys()]).toEqual(['__proto__', 'constructor'])
    expect(Object.prototype).not.toHaveProperty('dtype')
  })

  it('cuts names to a readable length in messages and escapes control characters', async () => {
    const { message } = await refusal(() => read(rawFile(JSON.stringify({ [`\u001b[2J${'n'.repeat(100_000)}`]: 1 }))))
    expect(message.length).toBeLessThan(500)
    expect(message).not.toContain('\u001b')
  })
})

describe('the writer', () => {
  const tensors = new Map([
    ['b.lora_A', { shape: [2, 3], data: Float32Array.of(1, -2, 3, -4, 5, -6) }],
    ['a.lora_B', { shape: [1], data: Float32Array.of(0.1) }],
  ])

  it('writes what the format says: sorted, aligned, contiguous', () => {
    const file = encodeSafetensors(tensors, { k: 'v' })
    const raw = parseRaw(file)
    expect([...raw.keys()]).toEqual(['a.lora_B', 'b.lora_A'])
    expect(raw.get('b.lora_A')).toEqual({ dtype: 'F32', shape: [2, 3], data: float32([1, -2, 3, -4, 5, -6]) })
    expect((file.length - 7 * 4) % 8).toBe(0)
  })

  it('gives the same bytes whatever the order of the tensors', () => {
    const reversed = new Map([...tensors].reverse())
    expect(encodeSafetensors(reversed, { k: 'v' })).toEqual(encodeSafetensors(tensors, { k: 'v' }))
  })

  it('is read back by the reader', async () => {
    const header = await read(encodeSafetensors(tensors, { k: 'v' }))
    expect(header.metadata.get('k')).toBe('v')
    expect(await readFloats(header.tensors.get('b.lora_A') as FloatTensorSource)).toEqual(tensors.get('b.lora_A')?.data)
  })
})

describe('decoding', () => {
  it('gives the value of every half, subnormals, infinities and NaN included', () => {
    const bits = Uint16Array.from({ length: 0x10000 }, (_, i) => i)
    const floats = decodeFloats(new Uint8Array(bits.buffer), 'F16')
    const cases: [number, number][] = [
      [0x0000, 0],
      [0x8000, -0],
      [0x0001, 2 ** -24],
      [0x03ff, 1023 * 2 ** -24],
      [0x0400, 2 ** -14],
      [0x3c00, 1],
      [0x3555, 0.333251953125],
      [0xc000, -2],
      [0x7bff, 65504],
      [0x7c00, Number.POSITIVE_INFINITY],
      [0xfc00, Number.NEGATIVE_INFINITY],
      [0x7e00, Number.NaN],
    ]
    for (const [half, value] of cases) expect(floats[half]).toBe(value)
    const finite = floats.filter((_, half) => (half & 0x7c00) !== 0x7c00)
    expect(firstNonFinite(finite)).toBe(-1)
    expect(new Set(finite.map((value) => (value === 0 ? 0 : value))).size).toBe(63487)
  })

  it('gives bfloat16 the upper half of a float32', () => {
    const bits = Uint16Array.of(0x3f80, 0xbfc0, 0x0001, 0x7f7f, 0x7f80)
    const floats = decodeFloats(new Uint8Array(bits.buffer), 'BF16')
    expect([...floats]).toEqual([1, -1.5, 2 ** -133, 2 ** 127 * (1 + 127 / 128), Number.POSITIVE_INFINITY])
  })

  it('does not depend on how the bytes are aligned in their buffer', () => {
    // A Buffer, because its slice() does not copy.
    const shifted = Buffer.alloc(9)
    shifted.set(float32([1.5, -2]), 1)
    expect([...decodeFloats(shifted.subarray(1), 'F32')]).toEqual([1.5, -2])
  })

  it('finds NaN and infinities', () => {
    expect(firstNonFinite(Float32Array.of(1, 3.4e38, -0))).toBe(-1)
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      expect(firstNonFinite(Float32Array.of(0, bad))).toBe(1)
    }
  })

  it('transposes a tensor as it streams', async () => {
    const file = writeRaw(new Map([['w', { dtype: 'F32', shape: [2, 3], data: float32([1, 2, 3, 4, 5, 6]) }]]))
    const { tensors } = await read(file)
    const blocks = []
    for await (const block of readTransposed(tensors.get('w') as FloatTensorSource)) blocks.push(block)
    expect(blocks).toEqual([{ start: 0, values: Float32Array.of(1, 4, 2, 5, 3, 6) }])
  })
})
