// Where the graph runs: chosen by flag, or by a look at what this machine has.
import { hasCuda } from '../../runtime/node.ts'
import { BackendError } from '../errors.ts'
import type { Provider, ProviderChoice } from './provider-choice.ts'

/** onnxruntime-web is made ready where it is chosen. Throws `config_invalid` where this machine lacks what that needs. */
export async function chooseProvider(choice: ProviderChoice): Promise<Provider> {
  switch (choice) {
    case 'auto':
      if (hasCuda()) return 'cuda'
      return (await findDevice())?.info.software === false ? 'webgpu' : 'cpu'
    case 'cuda':
      if (hasCuda()) return choice
      throw unusable(
        choice,
        "onnxruntime-node's CUDA binaries are not installed; they come with ONNXRUNTIME_NODE_INSTALL=cuda12 npm ci, on Linux x64 with CUDA 12",
      )
    case 'webgpu':
      if ((await findDevice()) !== undefined) return choice
      throw unusable(
        choice,
        'there is no adapter; install the npm package "webgpu", libvulkan1 and a Vulkan driver for the GPU',
      )
    case 'wasm':
      await setUp()
      return choice
    case 'cpu':
      return choice
  }
}

/** Loaded only where it is asked for: it is some megabytes of code that the CPU has no use for. */
async function setUp(): Promise<void> {
  const { setUpWebOnNode } = await import('../../runtime/web-on-node.ts')
  await setUpWebOnNode()
}

async function findDevice() {
  await setUp()
  const { openDevice } = await import('../../runtime/web.ts')
  return openDevice()
}

export function unusable(provider: Provider, why: string): BackendError {
  return new BackendError('config_invalid', `provider ${provider} cannot be used here: ${why}; or choose cpu`)
}
