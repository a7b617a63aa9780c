// What a merge holds at once: a few blocks, however large the base. Counted, not timed.

import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { ByteSource, Folder, OutFolder } from '../../compiler/host.ts'
import { inlineLanes } from '../../compiler/merge/inline-lanes.ts'
import { type OpenLanes, PAGE_BYTES } from '../../compiler/merge/matrix.ts'
import { mergeCheckpoint } from '../../compiler/merge/merge-checkpoint.ts'
import { openBase } from '../../compiler/merge/open-base.ts'
import { BLOCK_BYTES, SPAN_BYTES } from '../../compiler/merge/workspace.ts'
import { writeInOrder } from '../../compiler/merge/write-in-order.ts'
import { openFolder, stageFolder } from '../../runtime/disk.ts'
import { wasmLanes } from '../../runtime/wasm-lanes.ts'
import { refusal } from '../compiler/failing.ts'
import { seeded } from '../compiler/random.ts'
import { adapter, encodeRaw, lowRank, mergeInMemory, randomTensor } from './checkpoints.ts'

const MIB = 1024 * 1024

/** A checkpoint of zeros that is nowhere: `layers` matrices [rows, 1024] and one that stays as it is, in BF16. */
class Imagined {
  reading = 0
  mostReading = 0
  largestRead = 0
  written = 0
  readonly folder: Folder
  readonly bytes: number

  constructor(layers: number, rows: number, untouchedRows: number) {
    const names = [...Array.from({ length: layers }, (_, layer) => `layers.${layer}.weight`), 'untouched']
    let end = 0
    const entries = names.map((name) => {
      const shape = [name === 'untouched' ? untouchedRows : rows, 1024] as const
      const begin = end
      end += 2 * shape[0] * shape[1]
      return [name, { dtype: 'BF16', shape, data_offsets: [begin, end] }]
    })
    const header = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)))
    const start = new Uint8Array(8 + header.length)
    new DataView(start.buffer).setBigUint64(0, BigInt(header.length), true)
    start.set(header, 8)
    this.bytes = start.length + end
    const source: ByteSource = {
      name: 'imagined',
      size: this.bytes,
      read: async (offset, length) => {
        const bytes = new Uint8Array(length)
        if (offset < start.length) bytes.set(start.subarray(offset, offset + length))
        return bytes
      },
      readInto: async (offset, target) => {
        this.reading += target.length
        this.mostReading = Math.max(this.mostReading, this.reading)
        this.largestRead = Math.max(this.largestRead, target.length)
        await Promise.resolve()
        target.fill(0)
        if (offset < start.length) target.set(start.subarray(offset, offset + target.length))
        this.reading -= target.length
      },
      close: async () => {},
    }
    this.folder = { name: 'imagined', open: async (path) => (path === 'model.safetensors' ? source : undefined) }
  }

  readonly out: OutFolder = {
    create: async () => ({
      write: async (bytes) => {
        this.written += bytes.length
      },
      close: async () => {},
    }),
  }
}

async function pagesFor(layers: number, rows: number, lanes: number, untouchedRows = 1024): Promise<number> {
  const imagined = new Imagined(layers, rows, untouchedRows)
  let taken = 0
  const counting: OpenLanes = {
    lanes,
    open(assemble, pages) {
      taken = pages
      return inlineLanes.open(assemble, pages)
    },
  }
  const changes = Array.from({ length: layers }, (_, layer) => {
    return lowRank(`layers.${layer}.weight`, { r: 8, in: 1024, out: rows }, seeded(layer))
  })
  const base = await openBase(imagined.folder)
  await mergeCheckpoint(base, [adapter('a', 1, changes)], [], imagined.out, counting)
  expect(imagined.written).toBe(imagined.bytes)
  expect(imagined.largestRead).toBeLessThanOrEqual(BLOCK_BYTES)
  expect(imagined.mostReading).toBeLessThanOrEqual((2 * lanes + 2) * BLOCK_BYTES)
  return taken
}

describe('the memory of a merge', () => {
  it('is some blocks and the factors of four tensors, the same for any number and length of tensors', async () => {
    const most = await pagesFor(2, 4096, 2, 2 ** 20)
    expect(await pagesFor(4, 2048, 2, 2 ** 20)).toBe(most)
    expect(await pagesFor(1, 65_536, 2, 2 ** 20)).toBe(most)
    expect(await pagesFor(8, 1024, 2)).toBe(most)
    // Six slots of source, target and left; four times the right factor.
    expect(most * PAGE_BYTES).toBeLessThan(6 * (2 * BLOCK_BYTES + 128 * 1024) + MIB)
  })

  it('grows by two slots with each lane', async () => {
    const [one, two] = [await pagesFor(1, 1024, 1), await pagesFor(1, 1024, 2)]
    expect((two - one) * PAGE_BYTES).toBeLessThan(2 * (2 * BLOCK_BYTES + 128 * 1024))
  })
})

describe('writing in order', () => {
  const inTurn = async (delays: readonly number[], slots: number) => {
    let inFlight = 0
    let most = 0
    const written: number[] = []
    async function* blocks() {
      for (const [index, turns] of delays.entries()) {
        yield {
          async fill() {
            inFlight += 1
            most = Math.max(most, inFlight)
            for (let turn = 0; turn < turns; turn += 1) await Promise.resolve()
            return Uint8Array.of(index)
          },
        }
      }
    }
    await writeInOrder(blocks(), Array(slots).fill(0), async ([index = -1]) => {
      inFlight -= 1
      written.push(index)
    })
    return { most, written }
  }

  it('keeps the order whatever finishes first, and to its slots', async () => {
    const random = seeded(1)
    for (const slots of [1, 2, 5]) {
      const { most, written } = await inTurn(
        Array.from({ length: 50 }, () => Math.floor(random() * 20)),
        slots,
      )
      expect(written).toEqual(Array.from({ length: 50 }, (_, index) => index))
      expect(most).toBe(slots)
    }
  })

  it('fails with the first error, when nothing is in flight', async () => {
    let inFlight = 0
    async function* blocks() {
      for (let index = 0; index < 10; index += 1) {
        yield {
          async fill(): Promise<Uint8Array> {
            inFlight += 1
            await Promise.resolve()
            inFlight -= 1
            if (index >= 4) throw new Error(`block ${index}`)
            return Uint8Array.of(index)
          },
        }
      }
    }
    await expect(writeInOrder(blocks(), [0, 0, 0], async () => {})).rejects.toThrow('block 4')
    expect(inFlight).toBe(0)
    const failing = async () => {
      throw new Error('disk full')
    }
    await expect(writeInOrder(blocks(), [0, 0, 0], failing)).rejects.toThrow('disk full')
  })
})

describe('on disk', () => {
  let parent: string

  beforeEach(async () => {
    parent = await mkdtemp(join(tmpdir(), 'sidepath-merge-'))
  })

  afterEach(() => rm(parent, { recursive: true, force: true }))

  it('lanes that read and write the files give the bytes of those that do not', async () => {
    const random = seeded(7)
    // Longer than a span by an odd number of rows; copied ones too; one that the lanes cannot add in its own type; DoRA.
    const rows = SPAN_BYTES / 2 / 256 + 7
    const tensors = {
      embed: randomTensor('BF16', [40, 256], random),
      long: randomTensor('BF16', [rows, 256], random),
      kept: randomTensor('F16', [rows + 1, 256], random),
      narrow: randomTensor('F32', [9, 3], random),
      half: randomTensor('F16', [261, 130], random),
      full: randomTensor('F32', [131, 517], random),
      dora: randomTensor('F16', [13, 520], random),
    }
    const config = JSON.stringify({ architectures: ['LlamaForCausalLM'], tie_word_embeddings: true })
    const files = {
      'config.json': new TextEncoder().encode(config),
      'model.safetensors': encodeRaw(tensors, { format: 'pt' }),
    }
    for (const [name, bytes] of Object.entries(files)) await writeFile(join(parent, name), bytes)
    const dense = Float32Array.from({ length: 40 * 256 }, random)
    const changes = [
      { kind: 'add' as const, tensor: 'embed', value: dense, scaling: 1, sources: ['e'] },
      lowRank('long', { r: 7, in: 256, out: rows }, random),
      lowRank('narrow', { r: 2, in: 3, out: 9 }, random),
      lowRank('half', { r: 5, in: 130, out: 261 }, random),
      lowRank('full', { r: 3, in: 517, out: 131 }, random),
      lowRank('dora', { r: 3, in: 520, out: 13 }, random, { magnitude: Float32Array.from({ length: 13 }, random) }),
    ]
    const adapters = [adapter('a', 1, changes, ['embed']), adapter('b', 0.5, changes.slice(1, 4))]
    const { files: wanted } = await mergeInMemory(files, adapters, inlineLanes)
    for (const lanes of [wasmLanes(1), wasmLanes(3)]) {
      const base = await openBase(openFolder(parent))
      const staged = await stageFolder(join(parent, 'out'))
      await mergeCheckpoint(base, adapters, Object.keys(files), staged, lanes)
      for (const [name, bytes] of wanted) {
        expect(Buffer.compare(await readFile(join(staged.path, name)), bytes), name).toBe(0)
      }
      await staged.discard()
      await base.close()
    }
  })

  it('a merge that fails in the middle leaves nothing, and the next one starts afresh', async () => {
    const shape = [600, 1024]
    const bytes = new Uint8Array(2 * 600 * 1024)
    const tensors = { a: { dtype: 'F16', shape, bytes }, b: { dtype: 'F16', shape, bytes } } as const
    await writeFile(join(parent, 'model.safetensors'), encodeRaw(tensors))
    const merge = async (scaling: number, lanes: OpenLanes) => {
      const base = await openBase(openFolder(parent))
      const staged = await stageFolder(join(parent, 'out'))
      const change = lowRank('b', { r: 1, in: 1024, out: 600 }, seeded(1), { scaling })
      try {
        await mergeCheckpoint(base, [adapter('x', 1, [change])], [], staged, lanes)
        expect(await readdir(parent)).toHaveLength(2)
        await staged.commit()
      } finally {
        await staged.discard()
        await base.close()
      }
    }
    for (const lanes of [inlineLanes, wasmLanes(2)]) {
      expect((await refusal(() => merge(1e9, lanes))).code).toBe('merge-overflow')
      expect(await readdir(parent)).toEqual(['model.safetensors'])
    }
    await merge(1, wasmLanes(2))
    expect((await readdir(parent)).sort()).toEqual(['model.safetensors', 'out'])
  })
})
