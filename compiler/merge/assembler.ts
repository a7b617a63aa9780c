// Just enough of WebAssembly's binary format (webassembly.github.io/spec/core/binary) to write a kernel in TypeScript:
// instructions are lists of bytes, and an operation is a function of its operands.

export type Code = readonly number[]

/** `i32` also stands for addresses. */
export type ValueType = 'i32' | 'v128'

export interface Local {
  readonly index: number
  readonly get: Code
  set(value: Code): Code
}

const TYPES = { i32: 0x7f, v128: 0x7b } as const
const VOID_BLOCK = 0x40
const END = 0x0b

const op =
  (...opcode: readonly number[]) =>
  (...operands: readonly Code[]): Code => [...operands.flat(), ...opcode]

/** The vector instructions have a prefix and a number of their own. */
const simd = (number: number) => op(0xfd, ...unsigned(number))

/** Alignment is only a hint, so none is promised. */
const simdMemory = (number: number, lane: Code = []) => {
  return (offset: number, ...operands: readonly Code[]): Code => [
    ...operands.flat(),
    ...[0xfd, ...unsigned(number), 0, ...unsigned(offset)],
    ...lane,
  ]
}

export const i32 = {
  const: (value: number): Code => [0x41, ...signed(value)],
  add: op(0x6a),
  sub: op(0x6b),
  mul: op(0x6c),
  divide: op(0x6e),
  or: op(0x72),
  shiftLeft: (value: Code, bits: number): Code => [...value, ...i32.const(bits), 0x74],
  lessThan: op(0x49),
  store8: (address: Code, value: Code): Code => [...address, ...value, 0x3a, 0, 0],
  /** (whenTrue, whenFalse, condition) */
  select: op(0x1b),
}

export const v128 = {
  load: simdMemory(0),
  load32Splat: simdMemory(9),
  load64Splat: simdMemory(10),
  load64Zero: simdMemory(0x5d),
  store: simdMemory(11),
  loadHigh64: simdMemory(0x57, [1]),
  storeLow8: simdMemory(0x58, [0]),
  storeLow16: simdMemory(0x59, [0]),
  storeLow32: simdMemory(0x5a, [0]),
  storeLow64: simdMemory(0x5b, [0]),
  zero: [0xfd, 12, ...new Array<number>(16).fill(0)] as Code,
  and: simd(0x4e),
  or: simd(0x50),
  /** (whenOnes, whenZeros, mask) */
  select: simd(0x52),
  /** Lanes of four bytes: 0 to 3 are those of `a`, 4 to 7 those of `b`. */
  shuffle: (a: Code, b: Code, lanes: readonly [number, number, number, number]): Code => [
    ...[...a, ...b, 0xfd, 0x0d],
    ...lanes.flatMap((lane) => [4 * lane, 4 * lane + 1, 4 * lane + 2, 4 * lane + 3]),
  ],
}

export const i8x16 = {
  /** Two vectors of 16-bit lanes → sixteen bytes; a lane outside 0 … 255 as a signed integer is clamped. */
  narrow: simd(0x66),
}

export const i64x2 = {
  sub: simd(0xd1),
}

export const i32x4 = {
  splat: (value: number): Code => [...i32.const(value), 0xfd, 0x11],
  extractLane: (lane: number, value: Code): Code => [...value, 0xfd, 0x1b, lane],
  add: simd(0xae),
  maxUnsigned: simd(0xb9),
  greaterThanSigned: simd(0x3b),
  shiftLeft: (value: Code, bits: number) => simd(0xab)(value, i32.const(bits)),
  shiftRight: (value: Code, bits: number) => simd(0xad)(value, i32.const(bits)),
  extendLow: simd(0xa9),
  extendHigh: simd(0xaa),
  /** Two vectors → eight 16-bit lanes; a lane outside 0 … 65,535 as a signed integer is clamped. */
  narrow: simd(0x86),
  /** The low two lanes of two doubles, towards zero; the high two are 0. */
  truncate: simd(0xfc),
}

export const f32x4 = {
  abs: simd(0xe0),
  add: simd(0xe4),
  sub: simd(0xe5),
  mul: simd(0xe6),
  /** (a, b) → b < a ? b : a, one instruction where the other minimum is several. */
  least: simd(0xea),
  /** (a, b) → a < b ? b : a */
  most: simd(0xeb),
  /** Two doubles, rounded to the low two lanes; the high two are 0. */
  demote: simd(0x5e),
}

export const f64x2 = {
  const: (value: number): Code => {
    const bytes = new Uint8Array(new Float64Array([value]).buffer)
    return [0xfd, 12, ...bytes, ...bytes]
  },
  equal: simd(0x47),
  notEqual: simd(0x48),
  less: simd(0x49),
  greater: simd(0x4a),
  atMost: simd(0x4b),
  atLeast: simd(0x4c),
  ceil: simd(0x74),
  negate: simd(0xed),
  add: simd(0xf0),
  sub: simd(0xf1),
  mul: simd(0xf2),
  divide: simd(0xf3),
  /** (a, b) → b < a ? b : a */
  least: simd(0xf6),
  /** (a, b) → a < b ? b : a */
  most: simd(0xf7),
  /** The low two integers. */
  convert: simd(0xfe),
  /** The low two floats. */
  promoteLow: simd(0x5f),
}

/** `do … while (condition)`. */
export function repeatWhile(body: Code, condition: Code): Code {
  return [0x03, VOID_BLOCK, ...body, ...condition, 0x0d, 0, END]
}

/** One exported function of i32 parameters and an i32 result, with locals as they are asked for. */
export class FunctionBuilder {
  readonly name: string
  readonly #parameters: number
  readonly #locals: ValueType[] = []

  constructor(name: string, parameters: number) {
    this.name = name
    this.#parameters = parameters
  }

  get parameters(): readonly Local[] {
    return Array.from({ length: this.#parameters }, (_, index) => local(index))
  }

  local(type: ValueType): Local {
    return local(this.#parameters + this.#locals.push(type) - 1)
  }

  /** The function's entry in the type section, and in the code section. */
  encode(body: Code): { readonly type: Code; readonly code: Code } {
    const locals = this.#locals.map((type) => [1, TYPES[type]])
    const code = [...vector(locals), ...body, END]
    const parameters = Array.from({ length: this.#parameters }, () => [TYPES.i32])
    return { type: [0x60, ...vector(parameters), ...vector([[TYPES.i32]])], code: [...unsigned(code.length), ...code] }
  }
}

/** A module that imports `env.memory` and exports each function. */
export function assembleModule(
  functions: readonly { readonly name: string; readonly type: Code; readonly code: Code }[],
  memory: { readonly shared: boolean; readonly initialPages: number; readonly maximumPages: number },
): Uint8Array<ArrayBuffer> {
  const limits = [memory.shared ? 0x03 : 0x01, ...unsigned(memory.initialPages), ...unsigned(memory.maximumPages)]
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, vector(functions.map(({ type }) => type))),
    ...section(2, vector([[...text('env'), ...text('memory'), 0x02, ...limits]])),
    ...section(3, vector(functions.map((_, index) => unsigned(index)))),
    ...section(7, vector(functions.map(({ name }, index) => [...text(name), 0x00, ...unsigned(index)]))),
    ...section(10, vector(functions.map(({ code }) => code))),
  ])
}

function local(index: number): Local {
  return { index, get: [0x20, ...unsigned(index)], set: (value) => [...value, 0x21, ...unsigned(index)] }
}

function section(id: number, content: Code): Code {
  return [id, ...unsigned(content.length), ...content]
}

function vector(items: readonly Code[]): Code {
  return [...unsigned(items.length), ...items.flat()]
}

function text(value: string): Code {
  return vector([...new TextEncoder().encode(value)].map((byte) => [byte]))
}

/** LEB128. */
function unsigned(value: number): Code {
  const bytes: number[] = []
  let rest = value
  do {
    const low = rest & 0x7f
    rest >>>= 7
    bytes.push(rest === 0 ? low : low | 0x80)
  } while (rest !== 0)
  return bytes
}

/** Signed LEB128 of a 32-bit integer. */
function signed(value: number): Code {
  const bytes: number[] = []
  let rest = value | 0
  for (;;) {
    const low = rest & 0x7f
    rest >>= 7
    if ((rest === 0 && (low & 0x40) === 0) || (rest === -1 && (low & 0x40) !== 0)) return [...bytes, low]
    bytes.push(low | 0x80)
  }
}
