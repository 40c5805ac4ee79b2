"""One library call for each command: study in, result out."""
