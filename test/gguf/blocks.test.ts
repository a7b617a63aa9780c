// Every block format against the numbers that llama.cpp's own Python package gives: the same bits.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { FORMATS } from '../../compiler/gguf/blocks/formats.ts'

interface Oracle {
  readonly formats: Readonly<Record<string, { readonly blocks: string; readonly float32: string }>>
}

const oracle: Oracle = JSON.parse(readFileSync(join(import.meta.dirname, 'blocks.json'), 'utf8'))
const bytesOf = (base64: string) => new Uint8Array(Buffer.from(base64, 'base64'))

describe('blocks → float32', () => {
  it('has a stored oracle for every format but F32, which is itself', () => {
    const formats = [...FORMATS.values()].map(({ name }) => name).filter((name) => name !== 'F32')
    expect(formats.sort()).toEqual(Object.keys(oracle.formats).sort())
  })

  it.each([...FORMATS.values()].filter(({ name }) => name !== 'F32'))(
    '$name gives the bits of the oracle',
    (format) => {
      const { blocks, float32 } = oracle.formats[format.name]!
      const bytes = bytesOf(blocks)
      const out = new Float32Array((bytes.length / format.bytes) * format.elements)
      format.dequantise(bytes, out)
      const wanted = new Float32Array(bytesOf(float32).buffer)
      expect(out.length).toBe(wanted.length)
      // −0 and 0 are one number and differ in bits: q = 8 of Q4_0 under a negative scale.
      const differing = [...out.keys()].filter((i) => !Object.is(out[i], wanted[i]))
      expect(differing).toEqual([])
    },
  )
})
