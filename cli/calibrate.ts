// `--method gptq --calibration FILE`: the base runs in float on a text, and what its linears are fed with is gathered.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { compile } from '../compiler/compile.ts'
import type { Folder } from '../compiler/host.ts'
import { type Calibration, createCalibration, writeCalibrationGraph } from '../compiler/quantise/calibrate.ts'
import { openText } from '../gpu-backend/text/tokenizer.ts'
import { nodeHost, openFolder, stageFolder } from '../runtime/disk.ts'
import { openSession } from '../runtime/node.ts'
import { wasmLanes } from '../runtime/wasm-lanes.ts'
import { UserError } from './fail.ts'

/** Tokens that see one another. */
const WINDOW_TOKENS = 512
/** Each group of linears has the base run over all of it once more. The paper took 128 windows of 2,048 for models of 175 B. */
const MAX_TOKENS = 8 * WINDOW_TOKENS
/** Fewer say less than the damping does. */
const LEAST_TOKENS = 256
const MAX_BYTES = 4 * 1024 * 1024

export interface OpenCalibration {
  readonly calibration: Calibration
  close(): Promise<void>
}

/** `scratch`: a folder for the base in float32, which is made and, at the end, gone. */
export async function openCalibration(base: Folder, textFile: string, scratch: string): Promise<OpenCalibration> {
  const content = await readText(textFile)
  const staged = await stageFolder(join(scratch, 'calibrate'))
  try {
    const { manifest } = await compile(
      { base, adapters: [], target: 'merged' },
      staged,
      nodeHost,
      () => {},
      wasmLanes(),
    )
    const { path, architecture } = await writeCalibrationGraph(base, staged, nodeHost)
    const text = await openText(openFolder(staged.path))
    if (text === undefined) throw new UserError('gptq needs the tokenizer of the base; put its tokenizer.json there.')
    const ids = text.encode(content, Number.MAX_SAFE_INTEGER).slice(0, MAX_TOKENS)
    if (ids.length < LEAST_TOKENS) {
      throw new UserError(
        `--calibration "${textFile}" has ${ids.length} tokens; ${LEAST_TOKENS} are the least and ${MAX_TOKENS} are used, so give more text.`,
      )
    }
    const length = Math.min(WINDOW_TOKENS, manifest.base.architecture.maxPositions)
    const windows = Array.from({ length: Math.ceil(ids.length / length) }, (_, at) =>
      ids.slice(at * length, (at + 1) * length),
    )
    const session = await openSession(join(staged.path, path), { prepack: false })
    return {
      calibration: createCalibration(session, architecture, windows, digestOf(ids)),
      async close() {
        await session.release()
        await staged.discard()
      },
    }
  } catch (error) {
    await staged.discard()
    throw error
  }
}

async function readText(path: string): Promise<string> {
  const bytes = await readFile(path).catch(() => undefined)
  if (bytes === undefined) throw new UserError(`--calibration "${path}" cannot be read; give a text file.`)
  if (bytes.length > MAX_BYTES) {
    throw new UserError(`--calibration "${path}" has ${bytes.length} bytes; at most ${MAX_BYTES} are read, cut it.`)
  }
  return bytes.toString('utf8')
}

function digestOf(ids: readonly number[]): string {
  return createHash('sha256')
    .update(new Uint8Array(BigInt64Array.from(ids, BigInt).buffer))
    .digest('hex')
}
