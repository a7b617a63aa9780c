// Every field of the file, wrong in every way that has a name.
import { expect, test } from 'vitest'
import { readOnnxAdapter } from '../../compiler/onnx-adapter/read.ts'
import { writeOnnxAdapter } from '../../compiler/onnx-adapter/write.ts'
import { problemOf } from './bounds.ts'
import { TINY } from './samples.ts'

const file = writeOnnxAdapter({ adapterVersion: 1, modelVersion: 1 }, TINY)
const SIZE = 171

// Places in that file, by hand from the layout in write.ts.
const VTABLE = 8
const ROOT = 20
const LIST = 40
const A = { table: 52, name: 92, dims: 100, data: 124 }
const B = { table: 72, name: 132, dims: 140, data: 164 }

type Patch = (view: DataView) => void
const word =
  (at: number, value: number): Patch =>
  (view) =>
    view.setUint32(at, value, true)
const half =
  (at: number, value: number): Patch =>
  (view) =>
    view.setUint16(at, value, true)
const byte =
  (at: number, value: number): Patch =>
  (view) =>
    view.setUint8(at, value)
const long =
  (at: number, value: bigint): Patch =>
  (view) =>
    view.setBigInt64(at, value, true)
const point = (at: number, target: number): Patch => word(at, target - at)
const HUGE = 0xffff_ffff

function refusal(...patches: Patch[]): string {
  const bytes = file.slice()
  for (const patch of patches) patch(new DataView(bytes.buffer))
  return problemOf(() => readOnnxAdapter(bytes, 'f'))
}

test('the places that this test patches are where it believes', () => {
  const view = new DataView(file.buffer)
  expect(file.length).toBe(SIZE)
  expect([view.getUint32(LIST, true), view.getUint32(A.dims, true), view.getUint32(B.data, true)]).toEqual([2, 2, 3])
  expect([file[A.name + 4], file[B.name + 4]]).toEqual([0x61, 0x62])
  expect(readOnnxAdapter(file, 'f').parameters).toHaveLength(2)
})

const CASES: readonly (readonly [string, readonly Patch[], string])[] = [
  ['another identifier', [byte(7, 0x55)], 'at byte 4: no "TORT"'],
  ['a root offset of zero', [word(0, 0)], 'at byte 0: the offset of the adapter is zero'],
  ['a root offset that is not aligned', [word(0, ROOT + 2)], 'leads to byte 22, not aligned'],
  ['a root offset past the end', [word(0, 172)], 'leads to byte 172, outside the 171 bytes'],
  ['a root offset whose table starts 3 bytes before the end', [word(0, 168)], 'leads to byte 168, outside'],
  ['the largest root offset', [word(0, HUGE - 3)], `leads to byte ${HUGE - 3}, outside`],
  ['a vtable before the file', [word(ROOT, ROOT + 1)], 'would be at byte -1, outside'],
  ['a vtable after the file', [word(ROOT, -SIZE)], 'would be at byte 191, outside'],
  ['a vtable that is not aligned', [word(ROOT, ROOT - 9)], 'at byte 9: the vtable of the adapter is not aligned to 2'],
  ['a vtable too small for its header', [half(VTABLE, 2)], 'has 2 bytes'],
  ['a vtable of odd size', [half(VTABLE, 11)], 'has 11 bytes'],
  ['a vtable with a fifth field', [half(VTABLE, 14)], 'fields beyond the 4 of format version 1'],
  ['a vtable of the largest size', [half(VTABLE, 0xffff)], 'fields beyond the 4'],
  ['a vtable past the end', [word(ROOT, -146), half(166, 12), half(168, 20)], 'runs past the end of the file'],
  ['a table too small for its own offset', [half(VTABLE + 2, 3)], 'has 3 bytes, which is too few'],
  ['a table past the end', [half(VTABLE + 2, SIZE - ROOT + 1)], 'has 152 bytes, which is too few or past the end'],
  ['a field inside the offset to the vtable', [half(VTABLE + 4, 2)], 'field 0 of the adapter is at 2 of its 20 bytes'],
  ['a field past the table', [half(VTABLE + 4, 20)], 'field 0 of the adapter is at 20 of its 20 bytes'],
  ['a field across the end of the table', [half(VTABLE + 2, 19)], 'field 3 of the adapter is at 16 of its 19 bytes'],
  ['a field that is not aligned', [half(VTABLE + 4, 6)], 'field 0 of the adapter is at 6 of its 20 bytes'],
  ['format version 0', [word(ROOT + 4, 0)], 'at byte 24: format version 0; this reader knows 1'],
  ['no format version', [half(VTABLE + 4, 0)], 'at byte 20: format version 0'],
  ['format version 2', [word(ROOT + 4, 2)], 'format version 2'],
  ['no list of parameters', [half(VTABLE + 10, 0)], 'at byte 20: no parameters'],
  ['an empty list of parameters', [word(LIST, 0)], 'no parameters; the base would be served unchanged'],
  ['a list past the end', [word(LIST, 32)], 'has 32 elements, past the end of the file'],
  ['a list of the largest length', [word(LIST, HUGE)], `has ${HUGE} elements, past the end`],
  ['a parameter past the end', [word(LIST + 4, SIZE)], 'the offset of parameter 0 leads to byte 215'],
  ['one parameter listed twice', [point(LIST + 8, A.table)], 'parameter "a" is there twice'],
  ['two parameters of one name', [byte(B.name + 4, 0x61)], 'at byte 72: parameter "a" is there twice'],
  ['a name of zero length', [word(A.name, 0)], 'the name of parameter 0 is empty'],
  ['a name past the end', [word(A.name, SIZE)], 'the name of parameter 0 has 171 elements, past the end'],
  ['a name of the largest length', [word(A.name, HUGE)], 'past the end of the file'],
  ['a name that ends at the end of the file', [word(A.name, SIZE - 96)], 'does not end with a NUL'],
  ['a name without its NUL', [byte(A.name + 5, 0x61)], 'does not end with a NUL'],
  ['a name with a NUL inside', [word(A.name, 2)], 'has a NUL inside'],
  ['a name that is not UTF-8', [byte(A.name + 4, 0xff)], 'the name of parameter 0 is not UTF-8'],
  ['dims past the end', [word(A.dims, 9)], 'the dims of parameter "a" has 9 elements, past the end'],
  ['dims of the largest length', [word(A.dims, HUGE)], 'past the end of the file'],
  ['no dims', [word(A.dims, 0)], 'has empty dims'],
  // The low word of the first dim, 2, is then the length, and the dims start at byte 108.
  ['dims that are not aligned', [point(A.table + 8, 104)], 'the dims of parameter "a" is not aligned to 8'],
  ['a negative dim', [long(A.dims + 4, -2n)], 'at byte 104: parameter "a" has the dim -2;'],
  ['two negative dims with a fitting product', [long(A.dims + 4, -2n), long(A.dims + 12, -1n)], 'has the dim -2;'],
  ['the most negative dim', [long(A.dims + 4, -(2n ** 63n))], 'has the dim -9223372036854776000;'],
  ['the largest dim', [long(A.dims + 4, 2n ** 63n - 1n)], 'has the dim 9223372036854776000;'],
  ['a dim of 2^53', [long(A.dims + 4, 2n ** 53n)], 'has the dim 9007199254740992;'],
  ['a dim of 2^53 - 1', [long(A.dims + 4, 2n ** 53n - 1n)], 'takes more than 2^53 bytes'],
  ['a product beyond 2^64', [long(A.dims + 4, 2n ** 33n), long(A.dims + 12, 2n ** 33n)], 'takes more than 2^53 bytes'],
  ['an overflow hidden by a zero', [long(A.dims + 4, 2n ** 52n), long(A.dims + 12, 0n)], 'takes more than 2^53 bytes'],
  ['an overflow after a zero', [long(A.dims + 4, 0n), long(A.dims + 12, 2n ** 52n)], 'takes more than 2^53 bytes'],
  ['a dim too large by one', [long(A.dims + 4, 3n)], 'FLOAT16 [3,1], takes 6 bytes but raw_data has 4'],
  ['a dim too small by one', [long(A.dims + 4, 1n)], 'FLOAT16 [1,1], takes 2 bytes but raw_data has 4'],
  ['an element type of another size', [word(A.table + 12, 1)], 'FLOAT [2,1], takes 8 bytes but raw_data has 4'],
  ['raw data too short by one', [word(B.data, 2)], 'takes 3 bytes but raw_data has 2'],
  ['raw data past the end by one', [word(B.data, 4)], 'has 4 elements, past the end of the file'],
  ['raw data of the largest length', [word(B.data, HUGE)], 'past the end of the file'],
  ['raw data whose length is past the end', [word(B.table + 16, SIZE)], 'the offset of the raw_data of parameter "b"'],
]

test.each(CASES)('refuses %s', (_, patches, message) => {
  const found = refusal(...patches)
  expect(found).toMatch(/^onnx-adapter-invalid f: at byte \d+: /)
  expect(found).toContain(message)
})

const REFUSED_TYPES = [0, 8, 9, 11, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24, 1000, 0x7fff_ffff, HUGE]

test.each(REFUSED_TYPES)(
  'refuses data_type %d: STRING, BOOL, DOUBLE, complex, float8 and what is undeclared',
  (code) => {
    expect(refusal(word(A.table + 12, code))).toContain(`at byte 64: parameter "a" has data_type ${code | 0};`)
  },
)

test('refuses a parameter that lacks a field, by name', () => {
  // A vtable of its own for the first parameter, over the data of the second, which is then never reached.
  const missing = (field: number) =>
    refusal(
      word(A.table, A.table - 150),
      ...[12, 20, 4, 8, 12, 16].map((entry, i) => half(150 + 2 * i, entry)),
      half(154 + 2 * field, 0),
    )
  expect(missing(0)).toContain('at byte 52: parameter 0 has no name')
  expect(missing(1)).toContain('at byte 52: parameter "a" has no dims')
  expect(missing(2)).toContain('at byte 52: parameter "a" has data_type 0')
  expect(missing(3)).toContain('at byte 52: parameter "a" has no raw_data')
})

test('takes versions that the file leaves out as 0, the default of the schema', () => {
  const bytes = file.slice()
  // The root gets a vtable of its own, after the file.
  const longer = new Uint8Array(184)
  longer.set(bytes)
  const view = new DataView(longer.buffer)
  word(ROOT, ROOT - 172)(view)
  for (const [i, entry] of [12, 20, 4, 0, 0, 16].entries()) half(172 + 2 * i, entry)(view)
  expect(readOnnxAdapter(longer, 'f')).toMatchObject({ formatVersion: 1, adapterVersion: 0, modelVersion: 0 })
})

test('names the place of a control character in a name without repeating it raw', () => {
  const message = refusal(byte(A.name + 4, 0x1b), word(A.table + 12, 8))
  expect(message).toContain('parameter "\\u001b" has data_type 8')
})
