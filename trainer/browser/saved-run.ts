// What a page keeps of a run beside the trainer's own files: what was asked for, the data, and what has been reached.
import { z } from 'zod'
import { inputError } from '../../compiler/errors.ts'
import { readJson, withFile } from '../../compiler/read-file.ts'
import type { RunFolder } from '../run/host.ts'
import type { Point } from '../run/loss-plot.ts'
import { ADAPTER_FOLDER } from '../run/train.ts'
import { Settings } from './settings.ts'

const REQUEST_FILE = 'request.json'
const DATA_FILE = 'data.jsonl'
const CONFIG_FILE = 'adapter_config.json'
/** Every step has a line of about 150 bytes. */
const MAX_METRICS_BYTES = 256 * 2 ** 20

const Request = z.strictObject({
  base: z.string(),
  dataName: z.string(),
  settings: Settings,
  /** What it trains on; another one would round otherwise. */
  provider: z.enum(['webgpu', 'wasm']),
  threads: z.int().min(1),
  steps: z.int().min(1),
  /** Milliseconds since 1970. */
  startedAt: z.number(),
})
export type Request = z.infer<typeof Request>

export interface History {
  readonly train: readonly Point[]
  readonly held: readonly Point[]
}

export interface AdapterFile {
  readonly name: string
  readonly bytes: Uint8Array<ArrayBuffer>
}

export async function saveRequest(folder: RunFolder, request: Request, data: Blob): Promise<void> {
  await folder.replace(DATA_FILE, new Uint8Array(await data.arrayBuffer()))
  // Last: a run is there once its request is.
  await folder.replace(REQUEST_FILE, new TextEncoder().encode(JSON.stringify(request)))
}

/** `undefined` for a folder that holds no run, or one of another version. */
export async function readRequest(folder: RunFolder): Promise<Request | undefined> {
  return Request.safeParse(await readJson(folder, REQUEST_FILE)).data
}

export async function readData(folder: RunFolder, name: string): Promise<File> {
  const bytes = await withFile(folder, DATA_FILE, (file) => file.read(0, file.size))
  if (bytes === undefined)
    throw inputError('train-state', `the data of this run is gone; delete the run and begin anew`)
  return new File([bytes], name)
}

/** The losses so far. Half a line, which an end in mid-write may leave, is none. */
export async function readHistory(folder: RunFolder): Promise<History> {
  const text = await withFile(folder, 'metrics.jsonl', async (file) =>
    new TextDecoder().decode(await file.read(0, Math.min(file.size, MAX_METRICS_BYTES))),
  )
  const train: Point[] = []
  const held: Point[] = []
  for (const line of (text ?? '').split('\n')) {
    if (!line.endsWith('}')) continue
    const { step, loss, heldOutLoss } = JSON.parse(line) as Record<string, number | undefined>
    if (step !== undefined && loss !== undefined) train.push({ step, loss })
    if (step !== undefined && heldOutLoss !== undefined) held.push({ step, loss: heldOutLoss })
  }
  return { train, held }
}

export async function isFinished(folder: RunFolder): Promise<boolean> {
  // The config is written last.
  return (await withFile(folder, `${ADAPTER_FOLDER}/${CONFIG_FILE}`, async () => true)) ?? false
}

/** As PEFT writes it; `undefined` until the run is finished. */
export async function readAdapterFiles(folder: RunFolder): Promise<readonly AdapterFile[] | undefined> {
  const files: AdapterFile[] = []
  for (const name of [CONFIG_FILE, 'adapter_model.safetensors']) {
    const bytes = await withFile(folder, `${ADAPTER_FOLDER}/${name}`, (file) => file.read(0, file.size))
    if (bytes === undefined) return undefined
    files.push({ name, bytes })
  }
  return files
}
