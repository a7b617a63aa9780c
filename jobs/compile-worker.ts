// The thread in which one job runs: uploads in, a staged artifact out. The main thread decides what becomes of it.
import { join } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import type { Progress } from '../compiler/compile.ts'
import { compileAny } from '../compiler/compile-any.ts'
import { nodeHost, stageFolder } from '../runtime/disk.ts'
import { wasmLanes } from '../runtime/wasm-lanes.ts'
import { blobFolder } from './blob-folder.ts'
import { boundedFolder } from './bounded-folder.ts'
import { faultFields } from './errors.ts'
import { toFailure } from './failure.ts'
import { PROGRESS_EVERY_MS } from './limits.ts'
import type { RunData, RunMessage } from './run-protocol.ts'

const { id, recipe, blobs, artifacts, maxBytes } = workerData as RunData

const post = (message: RunMessage): void => parentPort!.postMessage(message)

let lastStage = ''
let lastAt = 0
function report(progress: Progress): void {
  const now = performance.now()
  const isEnd = progress.doneBytes === progress.totalBytes
  if (progress.stage === lastStage && !isEnd && now - lastAt < PROGRESS_EVERY_MS) return
  lastStage = progress.stage
  lastAt = now
  post({ kind: 'progress', ...progress })
}

try {
  const staged = await stageFolder(join(artifacts, id))
  const input = {
    base: blobFolder(blobs, 'base', recipe.base),
    adapters: recipe.adapters.map(({ name, weight, files }) => ({
      name,
      weight,
      folder: blobFolder(blobs, name, files),
    })),
    target: recipe.target,
  }
  const result = await compileAny(input, boundedFolder(staged, maxBytes), nodeHost, report, wasmLanes())
  post({ kind: 'done', artifact: result.id, staged: staged.path })
} catch (error) {
  const failure = toFailure(error)
  post({ kind: 'failed', failure, ...(failure.code === 'internal_error' ? { fault: faultFields(error) } : {}) })
}
