// The tokens that end a generation: those of the base's configuration and those of its generation configuration.
import { z } from 'zod'
import type { Manifest } from '../../compiler/contract.ts'
import type { Folder } from '../../compiler/host.ts'
import { readJson } from '../../compiler/read-file.ts'
import { BackendError } from '../errors.ts'

const Id = z.int().min(0)
const GenerationConfig = z.looseObject({ eos_token_id: z.union([Id, z.array(Id)]).nullish() })

export async function readEndIds(folder: Folder, manifest: Manifest): Promise<ReadonlySet<number>> {
  const parsed = GenerationConfig.safeParse((await readJson(folder, 'generation_config.json')) ?? {})
  if (!parsed.success) {
    throw new BackendError('artifact_unsuitable', `${folder.name}: generation_config.json has no usable eos_token_id`)
  }
  return new Set([...manifest.base.eosTokenIds, ...[parsed.data.eos_token_id ?? []].flat()])
}
