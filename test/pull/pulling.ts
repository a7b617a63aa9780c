// What the tests of pull share: a repository of a few files, a folder of their own, and pulls that do not wait.
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PullError } from '../../pull/errors.ts'
import { type PullOptions, type PullResult, pull } from '../../pull/pull.ts'
import { seeded } from '../compiler/random.ts'
import { REPO, type StandIn, startStandIn } from './stand-in.ts'

const text = (value: string) => new TextEncoder().encode(value)

export function randomBytes(length: number, seed: number): Uint8Array {
  const random = seeded(seed)
  return Uint8Array.from({ length }, () => Math.floor(random() * 256))
}

export const WEIGHTS = 'model-00001-of-00002.safetensors'
export const WEIGHTS_BYTES = 300_007

/** More entries than one page of the listing holds. */
export const FILES: Record<string, Uint8Array> = {
  'README.md': text('# tiny\n'),
  'config.json': text('{"model_type":"llama"}'),
  'generation_config.json': text('{}'),
  'consolidated.safetensors': randomBytes(50, 4),
  [WEIGHTS]: randomBytes(WEIGHTS_BYTES, 1),
  'model-00002-of-00002.safetensors': randomBytes(70_001, 2),
  'model.safetensors.index.json': text('{"weight_map":{}}'),
  'onnx/model.onnx': randomBytes(99, 3),
  'pytorch_model.bin': randomBytes(60, 5),
  'tokenizer.json': text('{"version":"1.0"}'),
  'tokenizer.model': randomBytes(33, 6),
  'tiny-Q4_K_M.gguf': randomBytes(2000, 7),
}

export const USUAL = [
  'config.json',
  'generation_config.json',
  WEIGHTS,
  'model-00002-of-00002.safetensors',
  'model.safetensors.index.json',
  'tokenizer.json',
  'tokenizer.model',
]

export interface Pulling extends AsyncDisposable {
  readonly hub: StandIn
  readonly folder: string
  readonly out: string
  /** Milliseconds that it would have waited, in order. */
  readonly waits: number[]
  run(options?: Partial<PullOptions>): Promise<PullResult>
  /** The PullError that it ends with. */
  refusal(options?: Partial<PullOptions>): Promise<PullError>
}

export async function startPulling(files: Record<string, Uint8Array> = FILES): Promise<Pulling> {
  const folder = await mkdtemp(join(tmpdir(), 'sidepath-pull-'))
  const hub = await startStandIn({ ...files })
  const out = join(folder, 'out')
  const waits: number[] = []
  const wait = async (ms: number) => {
    waits.push(ms)
  }
  const run = (options: Partial<PullOptions> = {}) =>
    pull({ reference: `hf:${REPO}`, out, endpoint: hub.url, wait, ...options })
  return {
    hub,
    folder,
    out,
    waits,
    run,
    async refusal(options) {
      const error: unknown = await run(options).then(
        () => undefined,
        (thrown: unknown) => thrown,
      )
      if (error instanceof PullError) return error
      throw new Error(error === undefined ? 'the pull succeeded' : `not a PullError: ${String(error)}`, {
        cause: error,
      })
    },
    async [Symbol.asyncDispose]() {
      await hub[Symbol.asyncDispose]()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** Every file below a folder, relative and sorted. */
export async function filesOf(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort()
}

export async function readRecord(out: string): Promise<unknown> {
  return JSON.parse(await readFile(join(out, 'sidepath-pull.json'), 'utf8'))
}
