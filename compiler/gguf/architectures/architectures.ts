// The architectures that are read, by the name in `general.architecture`.
import { inputError, quote } from '../../errors.ts'
import type { Metadata } from '../metadata.ts'
import type { Architecture } from './architecture.ts'
import { gemma2 } from './gemma2.ts'
import { gemma3 } from './gemma3.ts'
import { gpt2 } from './gpt2.ts'
import { granite } from './granite.ts'
import { llama } from './llama.ts'
import { olmo2 } from './olmo2.ts'
import { phi3 } from './phi3.ts'
import { qwen2 } from './qwen2.ts'
import { qwen3 } from './qwen3.ts'

const ALL: readonly Architecture[] = [llama, qwen2, qwen3, olmo2, gemma2, gemma3, phi3, gpt2, granite]

/** Throws `InputError` for another architecture, and for a key of this one that nothing here honours. */
export function architectureOf(metadata: Metadata): Architecture {
  const name = metadata.need('general.architecture', metadata.string)
  const found = ALL.find((architecture) => architecture.name === name)
  if (found === undefined) {
    const names = ALL.map((architecture) => architecture.name).join(', ')
    throw inputError(
      'gguf-unsupported',
      `${metadata.file}: general.architecture is ${quote(name)}; ${names} are read, give the Hugging Face folder`,
    )
  }
  for (const [key, value] of metadata.entries()) {
    if (!key.startsWith(`${name}.`) || found.keys.includes(key.slice(name.length + 1)) || value === 0) continue
    throw inputError(
      'gguf-unsupported',
      `${metadata.file}: the key ${quote(key)} is not known and could change what the model computes; give the Hugging ` +
        'Face folder',
    )
  }
  return found
}
