// model_type → family.
import type { Architecture } from '../../contract.ts'
import type { Family } from './family.ts'
import { gemma2 } from './gemma2.ts'
import { gemma3 } from './gemma3.ts'
import { gpt2 } from './gpt2.ts'
import { granite } from './granite.ts'
import { llama } from './llama.ts'
import { mistral } from './mistral.ts'
import { olmo2 } from './olmo2.ts'
import { phi3 } from './phi3.ts'
import { qwen2 } from './qwen2.ts'
import { qwen3 } from './qwen3.ts'

export const FAMILIES: Readonly<Record<Architecture['family'], Family>> = {
  llama,
  mistral,
  qwen2,
  qwen3,
  phi3,
  gemma2,
  gemma3_text: gemma3,
  gpt2,
  olmo2,
  granite,
}

export const layoutOf = ({ family }: Architecture) => FAMILIES[family].layout
