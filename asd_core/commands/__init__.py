"""The commands of ``python -m asd_core``, grouped by what they are about. They are thin; what they do lives in the
package. Slow libraries are imported inside the command that needs them, so that help is instant."""
