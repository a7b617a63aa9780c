// A long seeded fuzz of what comes from outside, a fifth each: safetensors files, adapter configs, .onnx_adapter files,
// GGUF files, and ONNX files with external data.
// Every case must end in an InputError or in a reading within bounds, in under a second, asking its file for at most
// twice its bytes. `node bench/fuzz.ts [count] [seed]`; the first case that does not ends the run with its number.
import { join } from 'node:path'
import type { BaseTensors } from '../compiler/adapter/change.ts'
import { readChanges } from '../compiler/adapter/read-changes.ts'
import { digestBase } from '../compiler/checkpoint/digest.ts'
import { openCheckpoint } from '../compiler/checkpoint/read.ts'
import { InputError, inputError } from '../compiler/errors.ts'
import { openGguf } from '../compiler/gguf/folder.ts'
import type { ByteSource, Folder } from '../compiler/host.ts'
import { exportOnnxAdapter } from '../compiler/onnx-adapter/export.ts'
import { readOnnxAdapter } from '../compiler/onnx-adapter/read.ts'
import { readHeader } from '../compiler/safetensors/read.ts'
import { nodeHost } from '../runtime/disk.ts'
import { ADAPTER_FILES, loadFiles, memorySource, TINY } from '../test/compiler/folders.ts'
import { FUZZ_SEED, mutate, seeded } from '../test/compiler/random.ts'
import { TINY_KEYS, tinyTensors, writeGguf } from '../test/gguf/gguf-file.ts'
import { hostileOnnx, readHostile } from '../test/inspect/onnx-mutations.ts'
import { record } from './record.ts'

const CASES = Number(process.argv[2] ?? 250_000)
const SEED = Number(process.argv[3] ?? FUZZ_SEED)
const SLOWEST_MS = 1000

interface Kind {
  readonly name: string
  damage(random: () => number): Uint8Array<ArrayBuffer>
  /** Reads the damaged file; `count` is told of every byte that is asked of it. */
  read(damaged: Uint8Array<ArrayBuffer>, count: (bytes: number) => void): Promise<void>
}

const adapter = await loadFiles(join(TINY, 'b'), ADAPTER_FILES)
const weights = adapter['adapter_model.safetensors']!
const base: BaseTensors = (
  await readHeader(
    memorySource('base', (await loadFiles(join(TINY, 'base'), ['model.safetensors']))['model.safetensors']!),
  )
).tensors

const KINDS: readonly Kind[] = [
  {
    name: 'safetensors',
    damage: damaging(weights),
    read: (damaged, count) => readAdapter({ ...adapter, 'adapter_model.safetensors': damaged }, damaged, count),
  },
  {
    name: 'adapter_config.json',
    damage: damaging(adapter['adapter_config.json']!),
    read: (damaged, count) => readAdapter({ ...adapter, 'adapter_config.json': damaged }, damaged, count),
  },
  {
    name: '.onnx_adapter',
    damage: damaging(
      exportOnnxAdapter(
        new Map([
          ['model.layers.0.mlp.down_proj', { A: new Float32Array(21), B: new Float32Array(15), r: 3, in: 7, out: 5 }],
        ]),
      ),
    ),
    async read(damaged, count) {
      const { parameters } = readOnnxAdapter(damaged, 'damaged')
      for (const { data } of parameters) {
        if (data.buffer !== damaged.buffer) throw new Error('a parameter is a copy')
        count(data.byteLength)
      }
    },
  },
  {
    name: 'GGUF',
    damage: damaging(writeGguf({ keys: TINY_KEYS, tensors: tinyTensors(seeded(SEED)) })),
    async read(damaged, count) {
      const source = memorySource('damaged.gguf', damaged)
      const counted: ByteSource = {
        ...source,
        read(offset, length) {
          count(length)
          return source.read(offset, length)
        },
      }
      await digestBase(await openCheckpoint(await openGguf(async () => counted)), nodeHost)
    },
  },
  {
    name: 'ONNX',
    damage: hostileOnnx,
    async read(damaged, count) {
      const { refused, asked } = await readHostile(damaged)
      count(asked)
      if (refused) throw inputError('onnx-invalid', 'refused')
    },
  },
]

/** One to three bytes changed; a tenth of them cut as well. */
function damaging(whole: Uint8Array): Kind['damage'] {
  return (random) => {
    const cut = random() < 0.1 ? Math.floor(random() * whole.length) : whole.length
    return new Uint8Array(mutate(whole, random).subarray(0, cut))
  }
}

async function readAdapter(
  files: Readonly<Record<string, Uint8Array>>,
  damaged: Uint8Array,
  count: (bytes: number) => void,
): Promise<void> {
  const folder: Folder = {
    name: 'b',
    async open(path) {
      const bytes = Object.hasOwn(files, path) ? files[path] : undefined
      if (bytes === undefined) return undefined
      const source = memorySource(path, bytes)
      const counted: ByteSource = {
        ...source,
        read(offset, length) {
          if (bytes === damaged) count(length)
          return source.read(offset, length)
        },
      }
      return counted
    },
  }
  await readChanges({ name: 'b', folder }, base)
}

const random = seeded(SEED)
const tally = KINDS.map(({ name }) => ({ name, cases: 0, refused: 0, slowestMs: 0, mostRead: 0 }))
for (let at = 0; at < CASES; at++) {
  const kind = KINDS[at % KINDS.length]!
  const row = tally[at % KINDS.length]!
  const damaged = kind.damage(random)
  let asked = 0
  const started = performance.now()
  try {
    await kind.read(damaged, (bytes) => {
      asked += bytes
    })
  } catch (error) {
    if (!(error instanceof InputError)) throw new Error(`case ${at} of seed ${SEED}, ${kind.name}`, { cause: error })
    row.refused += 1
  }
  const ms = performance.now() - started
  if (ms > SLOWEST_MS) throw new Error(`case ${at} of seed ${SEED}, ${kind.name}: ${ms.toFixed(0)} ms`)
  if (asked > 2 * damaged.length) throw new Error(`case ${at} of seed ${SEED}, ${kind.name}: read ${asked} bytes`)
  row.cases += 1
  row.slowestMs = Math.max(row.slowestMs, ms)
  row.mostRead = Math.max(row.mostRead, damaged.length === 0 ? 0 : asked / damaged.length)
}
record(
  'fuzz',
  `node bench/fuzz.ts ${CASES} ${SEED}`,
  tally.map(({ name, cases, refused, slowestMs, mostRead }) => ({
    what: `${cases} damaged ${name} files: refused with a typed error, slowest case, most bytes asked of the file`,
    value: `${refused}, ${slowestMs.toFixed(0)} ms, ${mostRead.toFixed(2)}× its size`,
  })),
)
