// Tensors that an adapter holds in full → replacements: modules_to_save, trained biases, embeddings saved beside their
// adapter. PEFT loads whatever name fits; here the config must account for it.
import { quote } from '../errors.ts'
import { isFloatDtype } from '../safetensors/dtypes.ts'
import type { FloatTensorSource } from '../safetensors/stream.ts'
import type { Change } from './change.ts'
import type { AdapterConfig } from './config.ts'
import { checkFinite, type Reading } from './reading.ts'
import type { AdapterTensors } from './tensor-names.ts'

/** What PEFT's save_embedding_layers saves: the input and the output embedding, under the names of transformers. */
const EMBEDDINGS =
  /(^|\.)(embed_tokens|wte|word_embeddings|embed_in|shared|tok_embeddings|lm_head|embed_out|output)\.weight$/

export async function readWholeTensors(
  { whole, modules, replaced }: AdapterTensors,
  config: AdapterConfig,
  reading: Reading,
): Promise<Change[]> {
  const changes: Change[] = []
  for (const [name, [first, ...copies]] of whole) {
    if (first === undefined || !fitsBase(name, first, reading)) continue
    if (!isAccountedFor(name, config, modules)) {
      reading.problems.add(
        'tensor-unknown',
        `${reading.about}: tensor ${quote(first.name)} is whole, but nothing in adapter_config.json says that it was ` +
          'trained; nothing is ignored, so re-export the adapter without it',
      )
    } else if (await areEqual(first, copies, reading)) {
      await checkFinite(first, reading)
      // Of no effect: the module that it belonged to is gone.
      const original = replaced.get(name)
      const sources = [first, ...copies, ...(original === undefined ? [] : [original])].map((tensor) => tensor.name)
      changes.push({ kind: 'replace', tensor: reading.location.toBase(name), value: first, sources })
    }
  }
  for (const [name, tensor] of replaced) {
    if (whole.has(name)) continue
    reading.problems.add(
      'adapter-pair',
      `${reading.about}: tensor ${quote(tensor.name)} was replaced, but by what is not there; re-export the adapter`,
    )
  }
  checkComplete(whole, config, reading)
  if (config.bias === 'lora_only') checkBiases(whole, modules, reading)
  return changes
}

/** PEFT's rule for modules_to_save: the module's path ends with the name, after a dot or not. */
export function isSaved(name: string, modulesToSave: readonly string[]): boolean {
  const parts = name.split('.')
  return parts.some((_, at) => at > 0 && modulesToSave.some((saved) => parts.slice(0, at).join('.').endsWith(saved)))
}

function isAccountedFor(name: string, config: AdapterConfig, modules: AdapterTensors['modules']): boolean {
  const module = name.slice(0, Math.max(0, name.lastIndexOf('.')))
  if (name.endsWith('.bias') && (config.bias === 'all' || (config.bias === 'lora_only' && modules.has(module))))
    return true
  return (
    EMBEDDINGS.test(name) || (name.endsWith('.weight') && modules.has(module)) || isSaved(name, config.modulesToSave)
  )
}

function fitsBase(
  name: string,
  tensor: FloatTensorSource,
  { about, problems, base, isPartial, location }: Reading,
): boolean {
  const target = location.toBase(name)
  const stored = base.get(target)
  if (stored === undefined) {
    problems.add(
      isPartial ? 'adapter-target' : 'adapter-base',
      isPartial
        ? `${about}: it replaces ${quote(target)}, which an ONNX target cannot take; merge it into the checkpoint first`
        : `${about}: it replaces ${quote(target)}, which the base does not store; add the new head or untie the tied one, ` +
            'and save that as the base',
    )
    return false
  }
  if (!isFloatDtype(stored.dtype)) {
    problems.add(
      'tensor-dtype',
      `${about}: the base stores ${quote(target)} as ${stored.dtype}; give the base in F32, F16 or BF16`,
    )
    return false
  }
  if (stored.shape.join() === tensor.shape.join()) return true
  const isResized = EMBEDDINGS.test(name) && stored.shape[1] === tensor.shape[1]
  problems.add(
    'adapter-base',
    `${about}: it replaces ${quote(target)} [${stored.shape}] by [${tensor.shape}]; ` +
      (isResized
        ? 'the vocabulary was resized, so resize the base too (resize_token_embeddings) and save that'
        : 'the adapter was trained for another base'),
  )
  return false
}

async function areEqual(
  first: FloatTensorSource,
  copies: readonly FloatTensorSource[],
  reading: Reading,
): Promise<boolean> {
  const bytes = ({ source, offset, bytes }: FloatTensorSource) => source.read(offset, bytes)
  for (const copy of copies) {
    const [one, other] = [await bytes(first), await bytes(copy)]
    if (first.dtype === copy.dtype && one.length === other.length && one.every((byte, i) => byte === other[i])) continue
    reading.problems.add(
      'tensor-unknown',
      `${reading.about}: ${quote(first.name)} and ${quote(copy.name)} are one tensor of the base but differ; re-export the adapter`,
    )
    return false
  }
  return true
}

/** A module of the base that modules_to_save names has all of its tensors in the file. */
function checkComplete(whole: AdapterTensors['whole'], { modulesToSave }: AdapterConfig, reading: Reading): void {
  if (modulesToSave.length === 0) return
  for (const name of reading.base.keys()) {
    const spelled = reading.location.toAdapter(name)
    if (spelled === undefined || whole.has(spelled) || !isSaved(spelled, modulesToSave)) continue
    reading.problems.add(
      'adapter-target',
      `${reading.about}: modules_to_save covers ${quote(spelled)} but the tensor is not there; the file is incomplete, re-export it`,
    )
  }
}

/** bias="lora_only": a linear with LoRA has its bias in the file, if it has one. With "all", other heads have theirs too. */
function checkBiases(whole: AdapterTensors['whole'], modules: AdapterTensors['modules'], reading: Reading): void {
  for (const [module, { A }] of modules) {
    const name = `${module}.bias`
    if (A === undefined || whole.has(name) || !reading.base.has(reading.location.toBase(name))) continue
    reading.problems.add(
      'adapter-pair',
      `${reading.about}: ${module} has no bias but the config says bias is "lora_only"; the file is incomplete, re-export it`,
    )
  }
}
