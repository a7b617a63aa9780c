// A base's tokenizer, chat template and end, as the trainer asks for them.
import type { Folder } from '../compiler/host.ts'
import { openText } from '../gpu-backend/text/tokenizer.ts'
import type { TrainingText } from '../trainer/data/text.ts'
import { UserError } from './fail.ts'

export async function openTrainingText(base: Folder, endIds: readonly number[]): Promise<TrainingText> {
  const text = await openText(base)
  if (text === undefined) throw new UserError(`base: ${base.name} has no tokenizer.json; put the base's own there.`)
  return { encode: text.tokenIds, render: text.render, endId: endIds[0] }
}
