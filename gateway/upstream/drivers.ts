// Which driver speaks to a backend.
import type { Driver } from './driver.ts'
import type { DriverName } from './driver-names.ts'
import { llamaCpp } from './drivers/llama-cpp.ts'
import { lorax } from './drivers/lorax.ts'
import { openai } from './drivers/openai.ts'
import { sglang } from './drivers/sglang.ts'
import { sidepath } from './drivers/sidepath.ts'
import { vllm } from './drivers/vllm.ts'
import { workersAi } from './drivers/workers-ai.ts'

export const DRIVERS: Readonly<Record<DriverName, Driver>> = {
  sidepath,
  vllm,
  sglang,
  lorax,
  'llama-cpp': llamaCpp,
  'workers-ai': workersAi,
  openai,
}
