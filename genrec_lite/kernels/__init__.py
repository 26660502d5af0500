"""Operations on jagged sequences, each one function with its own gradient."""
