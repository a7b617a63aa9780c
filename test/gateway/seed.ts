// Property tests run on a fixed seed, so that a red run means a change and not luck.
import fc from 'fast-check'

fc.configureGlobal({ seed: 20_261_123 })
